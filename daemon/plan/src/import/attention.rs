//! Attention and rotary positions.

use agentd_types::Datatype;

use super::{
    movement::part,
    site::{Found, Site, all, found},
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    graph::ValueId,
    op::{Attention, Binary, Concat, Expand, Gather, MatMul, Softmax, Unary, Where},
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match (site.node.domain, site.node.operator) {
        ("", "Attention") => attention(site),
        ("", "RotaryEmbedding") => {
            let caches = (site.id(1)?, site.id(2)?);
            rotary(site, caches, site.maybe(3))
        }
        ("com.microsoft", "RotaryEmbedding") => {
            let caches = (site.id(2)?, site.id(3)?);
            let places = rotary_places(site)?;
            rotary(site, caches, Some(places))
        }
        _ => Ok(None),
    }
}

/// Queries, keys and values as `[batch, heads, tokens, features]`, and what scores are combined with.
struct Parts {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    /// Added to the scores.
    bias: Option<ValueId>,
    scale: f32,
    heads: usize,
}

/// `[batch, tokens, heads * features]` or `[batch, heads, tokens, features]` as the latter.
fn by_head(site: &mut Site<'_, '_, '_>, x: ValueId, heads: usize) -> Result<ValueId, PlanError> {
    match site.fact_of(x)?.shape[..] {
        [_, _, _, _] => Ok(x),
        [batch, tokens, wide] if heads > 0 && wide % heads == 0 => {
            let split = site.reshape(x, [batch, tokens, heads, wide / heads])?;
            site.transpose(split, &[0, 2, 1, 3])
        }
        ref shape => Err(PlanError::shape(format!("attention of {shape:?} in {heads} heads"))),
    }
}

/// `[batch, heads, tokens, features]` as `[batch, tokens, heads * features]`.
fn by_token(site: &mut Site<'_, '_, '_>, x: ValueId) -> Result<ValueId, PlanError> {
    let [batch, heads, tokens, features] = four(site, x)?;
    let turned = site.transpose(x, &[0, 2, 1, 3])?;
    site.reshape(turned, [batch, tokens, heads * features])
}

fn four(site: &Site<'_, '_, '_>, x: ValueId) -> Result<[usize; 4], PlanError> {
    let shape = site.fact_of(x)?.shape;
    <[usize; 4]>::try_from(shape).map_err(|shape| PlanError::shape(format!("attention of {shape:?}")))
}

/// Each head as often as `heads` asks, side by side: groups of queries share a head of keys and values.
fn repeat_heads(site: &mut Site<'_, '_, '_>, x: ValueId, heads: usize) -> Result<ValueId, PlanError> {
    let [batch, own, tokens, features] = four(site, x)?;
    if own == heads {
        return Ok(x);
    }
    if own == 0 || !heads.is_multiple_of(own) {
        return Err(PlanError::shape(format!("{heads} heads of queries with {own} of keys or values")));
    }
    let split = site.reshape(x, [batch, own, 1, tokens, features])?;
    let shape = vec![batch, own, heads / own, tokens, features];
    let wide = site.one(Expand { shape }, &[split])?;
    site.reshape(wide, [batch, heads, tokens, features])
}

fn attention(site: &mut Site<'_, '_, '_>) -> Found {
    let (q, mut k, mut v) = (site.id(0)?, site.id(1)?, site.id(2)?);
    let flat = site.rank(0)? == 3;
    let (heads, own) = (site.size("q_num_heads", 0)?, site.size("kv_num_heads", 0)?);
    let q = by_head(site, q, heads)?;
    (k, v) = (by_head(site, k, own)?, by_head(site, v, own)?);
    let mut past = 0;
    if let (Some(old_k), Some(old_v)) = (site.maybe(4), site.maybe(5)) {
        let [_, _, tokens, _] = four(site, old_k)?;
        past = tokens;
        k = site.one(Concat { axis: 2 }, &[old_k, k])?;
        v = site.one(Concat { axis: 2 }, &[old_v, v])?;
    } else if site.maybe(4).is_some() || site.maybe(5).is_some() {
        return Err(PlanError::Graph("a past of keys without one of values, or the reverse".to_owned()));
    }
    let present = (k, v);
    let [_, heads, tokens, features] = four(site, q)?;
    (k, v) = (repeat_heads(site, k, heads)?, repeat_heads(site, v, heads)?);
    #[expect(clippy::cast_precision_loss, reason = "sizes of heads are small")]
    let scale = site.float("scale", 1.0 / (features.max(1) as f32).sqrt())?;
    let [_, _, keys, _] = four(site, k)?;
    let bias = bias(site, (tokens, keys), past)?;
    let parts = Parts { q, k, v, bias, scale, heads };
    let softcap = site.float("softcap", 0.0)?;
    let (y, products) = if softcap > 0.0 || site.wants(3) {
        in_steps(site, &parts, softcap)?
    } else {
        let y = at_once(site, &parts)?;
        (y, y)
    };
    let y = match (flat, site.fact_of(y)?.rank() == 3) {
        (true, false) => by_token(site, y)?,
        (false, true) => by_head(site, y, heads)?,
        _ => y,
    };
    all(vec![y, present.0, present.1, products])
}

/// What the mask and causality add to the scores `[.., tokens, keys]`. The first token sees `past` keys and its own.
fn bias(
    site: &mut Site<'_, '_, '_>,
    (tokens, keys): (usize, usize),
    past: usize,
) -> Result<Option<ValueId>, PlanError> {
    let datatype = site.fact(0)?.datatype;
    let mut bias = site.maybe(3);
    if let Some(mask) =
        bias.filter(|mask| matches!(site.fact_of(*mask), Ok(fact) if fact.datatype == Datatype::Bool))
    {
        let (zero, never) = (site.number(datatype, 0.0)?, site.number(datatype, f64::NEG_INFINITY)?);
        bias = Some(site.one(Where, &[mask, zero, never])?);
    }
    if site.flag("is_causal", false)? {
        site.reserve(&Fact::new(datatype, [tokens, keys]))?;
        let seen = (0..tokens).flat_map(|token| (0..keys).map(move |key| key <= token + past));
        let items = seen.map(|seen| if seen { 0.0 } else { f64::NEG_INFINITY }).collect();
        let causal = site.add(Array::from_reals(datatype, [tokens, keys], items)?)?;
        bias = Some(match bias {
            Some(bias) => site.binary(Binary::Add, bias, causal)?,
            None => causal,
        });
    }
    Ok(bias)
}

/// By the one operator; `[batch, tokens, heads * features]`.
fn at_once(site: &mut Site<'_, '_, '_>, parts: &Parts) -> Result<ValueId, PlanError> {
    let (q, k, v) = (by_token(site, parts.q)?, by_token(site, parts.k)?, by_token(site, parts.v)?);
    let op = Attention { heads: parts.heads, scale: parts.scale };
    let outputs = site.emit(op, &[Some(q), Some(k), Some(v), parts.bias])?;
    outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

/// Written out, for scores that are bent or asked for: the result `[batch, heads, tokens, features]`, and the scores.
fn in_steps(
    site: &mut Site<'_, '_, '_>,
    parts: &Parts,
    softcap: f32,
) -> Result<(ValueId, ValueId), PlanError> {
    let product = MatMul { transpose_b: true, alpha: parts.scale, ..MatMul::default() };
    let plain = site.one(product, &[parts.q, parts.k])?;
    let biased = parts.bias.map_or(Ok(plain), |bias| site.binary(Binary::Add, plain, bias))?;
    let mut bent = biased;
    if softcap > 0.0 {
        let small = site.with_number(Binary::Div, biased, f64::from(softcap))?;
        let small = site.unary(Unary::Tanh, small)?;
        bent = site.with_number(Binary::Mul, small, f64::from(softcap))?;
    }
    let shares = site.one(Softmax { axis: 3, log: false }, &[bent])?;
    let y = site.one(MatMul::default(), &[shares, parts.v])?;
    let asked = match site.int("qk_matmul_output_mode", 0)? {
        0 => plain,
        1 => biased,
        2 => bent,
        3 => shares,
        other => return Err(PlanError::attribute(format!("scores in mode {other}"))),
    };
    Ok((y, asked))
}

/// Positions `[batch, tokens]`, of which one alone is where all sequences begin.
fn rotary_places(site: &mut Site<'_, '_, '_>) -> Result<ValueId, PlanError> {
    let (places, shape) = (site.id(1)?, site.fact(0)?.shape);
    if site.fact(1)?.elements() != 1 {
        return Ok(places);
    }
    let ([batch, tokens, _] | [batch, _, tokens, _]) = shape[..] else {
        return Err(PlanError::shape(format!("rotary positions of {shape:?}")));
    };
    site.reserve(&Fact::new(Datatype::Int64, [tokens]))?;
    let steps = site.list((0..i64::try_from(tokens).unwrap_or(i64::MAX)).collect::<Vec<i64>>())?;
    let start = site.cast(places, Datatype::Int64)?;
    let start = site.reshape(start, [1, 1])?;
    let row = site.binary(Binary::Add, start, steps)?;
    site.one(Expand { shape: vec![batch, tokens] }, &[row])
}

/// Turns pairs of features by an angle for each position: of tokens in `places`, else of the caches' own rows.
fn rotary(site: &mut Site<'_, '_, '_>, caches: (ValueId, ValueId), places: Option<ValueId>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let half_cache = site.fact_of(caches.0)?.shape.last().copied().unwrap_or(0);
    let dims = site.size("rotary_embedding_dim", 0)?;
    // The axes of tokens and heads change places with the rank.
    let (x, tokens_axis) = match shape[..] {
        [batch, tokens, wide] => {
            let heads = match site.size("num_heads", 0)? {
                0 => wide.checked_div(half_cache.saturating_mul(2)).unwrap_or(0),
                heads => heads,
            };
            if heads == 0 || wide % heads != 0 {
                return Err(PlanError::attribute(format!("{wide} features in {heads} heads")));
            }
            (site.reshape(x, [batch, tokens, heads, wide / heads])?, 1)
        }
        [_, _, _, _] => (x, 2),
        _ => return Err(PlanError::shape(format!("rotary positions of {shape:?}"))),
    };
    let [batch, one, two, features] = four(site, x)?;
    let tokens = if tokens_axis == 1 { one } else { two };
    let turned = if dims == 0 { features } else { dims };
    if turned > features || turned % 2 != 0 || turned / 2 > half_cache {
        return Err(PlanError::shape(format!(
            "{turned} of {features} features turned by {half_cache} angles"
        )));
    }
    let angles = |site: &mut Site<'_, '_, '_>, cache: ValueId| {
        let rows = places.map_or(Ok(cache), |places| site.one(Gather { axis: 0 }, &[cache, places]))?;
        let axis = site.fact_of(rows)?.rank().saturating_sub(1);
        let rows = part(site, rows, axis, 0..turned / 2)?;
        let shape =
            if tokens_axis == 1 { [batch, tokens, 1, turned / 2] } else { [batch, 1, tokens, turned / 2] };
        site.reshape(rows, shape)
    };
    let (cos, sin) = (angles(site, caches.0)?, angles(site, caches.1)?);
    let head = part(site, x, 3, 0..turned)?;
    let result = turn(site, head, (cos, sin), site.flag("interleaved", false)?)?;
    let result = if turned == features {
        result
    } else {
        let rest = part(site, x, 3, turned..features)?;
        site.one(Concat { axis: 3 }, &[result, rest])?
    };
    found(site.reshape(result, shape)?)
}

/// `(cos a - sin b, sin a + cos b)`, a and b being the halves of the last axis, or its even and its odd elements.
fn turn(
    site: &mut Site<'_, '_, '_>,
    x: ValueId,
    (cos, sin): (ValueId, ValueId),
    interleaved: bool,
) -> Result<ValueId, PlanError> {
    let [n, one, two, size] = four(site, x)?;
    let half = size / 2;
    let (axis, split) = if interleaved { (4, [half, 2]) } else { (3, [2, half]) };
    let pairs = site.reshape(x, [n, one, two, split[0], split[1]])?;
    let side = |site: &mut Site<'_, '_, '_>, at: usize| {
        let side = part(site, pairs, axis, at..at + 1)?;
        site.reshape(side, [n, one, two, half])
    };
    let (a, b) = (side(site, 0)?, side(site, 1)?);
    let mut mixed = |factor_a, factor_b, combine| {
        let (a, b) = (site.binary(Binary::Mul, factor_a, a)?, site.binary(Binary::Mul, factor_b, b)?);
        site.binary(combine, a, b)
    };
    let (real, imaginary) = (mixed(cos, sin, Binary::Sub)?, mixed(sin, cos, Binary::Add)?);
    let wide = if interleaved { [n, one, two, half, 1] } else { [n, one, two, 1, half] };
    let (real, imaginary) = (site.reshape(real, wide)?, site.reshape(imaginary, wide)?);
    let joined = site.one(Concat { axis }, &[real, imaginary])?;
    site.reshape(joined, [n, one, two, size])
}
