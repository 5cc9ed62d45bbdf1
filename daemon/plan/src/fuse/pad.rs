//! Padding by zeros goes into the convolution that takes it.

use super::Edit;
use crate::{
    error::PlanError,
    op::{Conv, Op, movement::PadMode},
};

/// Moves padding into convolutions.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        if let Some((op, inputs)) = padded(edit, at) {
            edit.replace(at, op, inputs);
        }
    }
    Ok(())
}

fn padded(edit: &Edit, at: usize) -> Option<(Conv, Vec<Option<usize>>)> {
    let node = edit.node(at)?;
    let Op::Conv(conv) = &node.op else { return None };
    let (_, before) = edit.maker(node.input(0)?)?;
    let Op::Pad(pad) = &before.op else { return None };
    let is_zero = before.input(1).is_none_or(|fill| edit.number(fill) == Some(0.0));
    let outer = |list: &[isize]| list.iter().take(2).all(|pad| *pad == 0);
    if pad.mode != PadMode::Constant || !is_zero || !outer(&pad.before) || !outer(&pad.after) {
        return None;
    }
    let mut conv = conv.clone();
    let add = |to: &mut [usize], more: &[isize]| {
        to.iter_mut().zip(more.iter().skip(2)).try_for_each(|(pad, more)| {
            *pad += usize::try_from(*more).ok()?;
            Some(())
        })
    };
    add(&mut conv.window.pads_begin, &pad.before)?;
    add(&mut conv.window.pads_end, &pad.after)?;
    let mut inputs = node.inputs.clone();
    *inputs.first_mut()? = before.input(0);
    Some((conv, inputs))
}
