//! Scaled dot-product attention that files spell out: heads split by reshape and transpose, two products and a softmax.

use super::Edit;
use crate::{
    error::PlanError,
    op::{Attention, Binary, Op, Reshape, Slice},
};

/// Recognises attention.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        if let Some(found) = attention(edit, at) {
            write(edit, at, &found)?;
        }
    }
    Ok(())
}

/// One operand: tokens `[B, S, features]`, of which some features, from `start` on, are the heads.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tokens {
    value: usize,
    start: usize,
    heads: usize,
    size: usize,
    factor: f64,
}

struct Found {
    op: Attention,
    q: Tokens,
    k: Tokens,
    v: Tokens,
    mask: Option<usize>,
    /// The node whose output the attention defines, of shape `[B, S, H D]` or what reshapes from it.
    last: usize,
}

/// Goes back over products and quotients with one number.
fn unscaled(edit: &Edit, mut value: usize) -> (usize, f64) {
    let mut factor = 1.0;
    for _ in 0..4 {
        let Some((_, node)) = edit.maker(value) else { break };
        let number = |index: usize| node.input(index).and_then(|input| edit.number(input));
        let (next, times) = match (&node.op, number(0), number(1)) {
            (Op::Binary(Binary::Mul), _, Some(number)) => (node.input(0), number),
            (Op::Binary(Binary::Mul), Some(number), _) => (node.input(1), number),
            (Op::Binary(Binary::Div), _, Some(number)) => (node.input(0), 1.0 / number),
            _ => break,
        };
        let Some(next) = next.filter(|next| edit.shape(*next) == edit.shape(value)) else { break };
        value = next;
        factor *= times;
    }
    (value, factor)
}

/// The tokens of a value `[B, H, S, D]`, or `[B, H, D, S]` when `turned`.
fn tokens(edit: &Edit, value: usize, turned: bool) -> Option<Tokens> {
    let (value, outer) = unscaled(edit, value);
    let (_, node) = edit.maker(value)?;
    let perm = match &node.op {
        Op::Transpose(transpose) => transpose.perm.as_slice(),
        _ if turned => return None,
        _ => return packed(edit, value, outer),
    };
    let before = node.input(0)?;
    if turned && perm == [0, 1, 3, 2] {
        let inner = tokens(edit, before, false)?;
        return Some(Tokens { factor: inner.factor * outer, ..inner });
    }
    let wanted: &[usize] = if turned { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
    if perm != wanted {
        return None;
    }
    let (split, inner) = unscaled(edit, before);
    let (_, node) = edit.maker(split)?;
    let source = node.input(0)?;
    let (Op::Reshape(reshape), [b, s, h, d]) = (&node.op, edit.shape(split)) else { return None };
    let _shape = reshape;
    let (source, more) = unscaled(edit, source);
    let features = h * d;
    // The source may be a matrix of all tokens.
    let fits = edit.shape(source) == [*b, *s, features] || edit.shape(source) == [b * s, features];
    fits.then_some(Tokens { value: source, start: 0, heads: *h, size: *d, factor: outer * inner * more })
}

/// Queries, keys and values in one product: `[B, S, 3 H D]` reshaped to `[B, S, 3, H, D]`, transposed and cut.
fn packed(edit: &Edit, value: usize, factor: f64) -> Option<Tokens> {
    let (_, squeeze) = edit.maker(value)?;
    let [_, heads, _, size] = edit.shape(value) else { return None };
    let part = squeeze.input(0)?;
    if !matches!(squeeze.op, Op::Reshape(_)) && !matches!(squeeze.op, Op::Gather(_)) {
        return None;
    }
    let (which, all) = match &squeeze.op {
        Op::Reshape(_) => {
            let (_, cut) = edit.maker(part)?;
            let Op::Slice(Slice { starts, sizes, steps }) = &cut.op else { return None };
            let all = cut.input(0)?;
            let whole = starts.iter().skip(1).all(|start| *start == 0)
                && sizes.iter().skip(1).eq(edit.shape(all).iter().skip(1))
                && sizes.first() == Some(&1)
                && steps.iter().all(|step| *step == 1);
            (*starts.first().filter(|_| whole)?, all)
        }
        Op::Gather(gather) if gather.axis == 0 => {
            let index = edit.number(squeeze.input(1)?).filter(|index| *index >= 0.0)?;
            if edit.shape(squeeze.input(1)?) != [0_usize; 0] {
                return None;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index that is no negative"
            )]
            let index = index as usize;
            (index, part)
        }
        _ => return None,
    };
    let (_, turn) = edit.maker(all)?;
    let Op::Transpose(transpose) = &turn.op else { return None };
    let split = turn.input(0)?;
    let (_, reshape) = edit.maker(split)?;
    let source = reshape.input(0)?;
    let [b, s, count, h, d] = edit.shape(split) else { return None };
    let fits = transpose.perm == [2, 0, 3, 1, 4]
        && matches!(reshape.op, Op::Reshape(_))
        && edit.shape(source) == [*b, *s, count * h * d]
        && (h, d) == (heads, size);
    fits.then_some(Tokens { value: source, start: which * h * d, heads: *heads, size: *size, factor })
}

fn attention(edit: &Edit, at: usize) -> Option<Found> {
    // The product of weights and values.
    let node = edit.node(at)?;
    let Op::MatMul(mix) = &node.op else { return None };
    let plain = !mix.transpose_a
        && !mix.transpose_b
        && mix.alpha.to_bits() == 1.0_f32.to_bits()
        && mix.activation.is_none()
        && node.inputs.len() == 2;
    let (_, softmax) = edit.maker(node.input(0)?)?;
    let v = tokens(edit, node.input(1)?, false)?;
    let Op::Softmax(kind) = &softmax.op else { return None };
    if !plain || kind.log || kind.axis != 3 {
        return None;
    }
    let scores = softmax.input(0)?;
    let (scores, mask, factor) = scores_of(edit, scores)?;
    let (_, product) = edit.maker(scores)?;
    let Op::MatMul(op) = &product.op else { return None };
    if op.transpose_a || op.activation.is_some() || product.inputs.len() != 2 {
        return None;
    }
    let q = tokens(edit, product.input(0)?, false)?;
    let k = tokens(edit, product.input(1)?, !op.transpose_b)?;
    if q.heads != k.heads || q.heads != v.heads || q.size != k.size || v.factor.to_bits() != 1.0_f64.to_bits()
    {
        return None;
    }
    // What puts the heads together again.
    let turn = edit.only_user(node.output())?;
    let turned = edit.node(turn)?;
    let Op::Transpose(transpose) = &turned.op else { return None };
    let join = edit.only_user(turned.output())?;
    let joined = edit.node(join)?;
    let fits = transpose.perm == [0, 2, 1, 3] && matches!(joined.op, Op::Reshape(_));
    let scale = factor * q.factor * k.factor * f64::from(op.alpha);
    #[expect(clippy::cast_possible_truncation, reason = "a number of the model, in single precision")]
    let op = Attention { heads: q.heads, scale: scale as f32 };
    fits.then_some(Found { op, q, k, v, mask, last: join })
}

/// Goes back over a mask and factors: the scores, the mask, the factor.
fn scores_of(edit: &Edit, value: usize) -> Option<(usize, Option<usize>, f64)> {
    let (_, node) = edit.maker(value)?;
    if node.op != Op::Binary(Binary::Add) {
        let (scores, factor) = unscaled(edit, value);
        return Some((scores, None, factor));
    }
    let is_scores = |value: usize| {
        let (scores, _) = unscaled(edit, value);
        edit.maker(scores).is_some_and(|(_, node)| matches!(node.op, Op::MatMul(_)))
    };
    let (scaled, mask) = edit.either(node, is_scores)?;
    let (scores, factor) = unscaled(edit, scaled);
    (edit.shape(scaled) == edit.shape(value)).then_some((scores, Some(mask), factor))
}

fn write(edit: &mut Edit, at: usize, found: &Found) -> Result<(), PlanError> {
    let Some(origin) = edit.node(at).map(|node| node.origin.clone()) else { return Ok(()) };
    let batch = edit.shape(at_output(edit, at)).first().copied().unwrap_or(1);
    let mut inputs = Vec::new();
    for tokens in [found.q, found.k, found.v] {
        inputs.push(Some(operand(edit, tokens, batch, &origin)?));
    }
    inputs.extend(found.mask.map(Some));
    let result = edit.insert(found.op, inputs, &origin)?;
    let Some(shape) = edit.node(found.last).map(|node| edit.shape(node.output()).to_vec()) else {
        return Ok(());
    };
    edit.replace(found.last, Reshape { shape }, vec![Some(result)]);
    let same = edit.node(found.last).is_some_and(|node| edit.shape(node.output()) == edit.shape(result));
    if same {
        edit.forward(found.last, result);
    }
    Ok(())
}

fn at_output(edit: &Edit, at: usize) -> usize {
    edit.node(at).map_or(usize::MAX, super::edit::Work::output)
}

/// The tokens as `[B, S, H D]`.
fn operand(edit: &mut Edit, tokens: Tokens, batch: usize, origin: &str) -> Result<usize, PlanError> {
    let features = tokens.heads * tokens.size;
    let shape = edit.shape(tokens.value).to_vec();
    match shape[..] {
        [rows, width] if width == features => {
            let shape = vec![batch, rows.checked_div(batch).unwrap_or(0), width];
            edit.insert(Reshape { shape }, vec![Some(tokens.value)], origin)
        }
        [b, s, width] if width != features => {
            let cut =
                Slice { starts: vec![0, 0, tokens.start], sizes: vec![b, s, features], steps: vec![1; 3] };
            edit.insert(cut, vec![Some(tokens.value)], origin)
        }
        _ => Ok(tokens.value),
    }
}
