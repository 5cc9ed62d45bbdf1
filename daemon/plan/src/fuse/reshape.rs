//! Reshapes of reshapes, transposes of transposes, and casts that change nothing.

use super::Edit;
use crate::{
    error::PlanError,
    op::{Op, Reshape, Transpose},
};

/// Merges neighbours; takes out what changes nothing.
pub(super) fn merge(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        let Some(node) = edit.node(at) else { continue };
        let Some(x) = node.input(0) else { continue };
        let before = edit.maker(x).map(|(_, before)| (before.op.clone(), before.input(0)));
        match (node.op.clone(), before) {
            (Op::Reshape(this), Some((Op::Reshape(_), Some(source)))) => {
                edit.replace(at, this, vec![Some(source)])
            }
            (Op::Transpose(this), Some((Op::Transpose(before), Some(source)))) => {
                let perm = this.perm.iter().filter_map(|axis| before.perm.get(*axis).copied()).collect();
                edit.replace(at, Transpose { perm }, vec![Some(source)]);
            }
            _ => {}
        }
        let Some(node) = edit.node(at) else { continue };
        let Some(x) = node.input(0) else { continue };
        let same = match &node.op {
            Op::Reshape(Reshape { shape }) => edit.shape(x) == shape,
            Op::Transpose(Transpose { perm }) => perm.is_sorted(),
            Op::Cast(cast) => edit.fact(x).is_some_and(|fact| fact.datatype == cast.to),
            _ => false,
        };
        if same {
            edit.forward(at, x);
        }
    }
    Ok(())
}
