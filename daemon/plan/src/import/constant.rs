//! Operators whose output is known at import: constants, shapes, ranges, and those whose output's shape depends on values.

use agentd_types::Datatype;

use super::{
    elementwise::datatype,
    movement::sizes_of,
    site::{Found, Site, all, found},
};
use crate::{
    array::{Array, Fact, is_int},
    error::PlanError,
    op::{Expand, Gather},
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "Constant" => constant(site),
        "ConstantOfShape" => constant_of_shape(site),
        "Shape" => shape_of(site),
        "Size" => {
            let size = i64::try_from(site.fact(0)?.elements()).unwrap_or(i64::MAX);
            found(site.add(Array::scalar(size))?)
        }
        "Range" => range(site),
        "EyeLike" => eye(site),
        "NonZero" => non_zero(site),
        "Compress" => compress(site),
        "Unique" => unique(site),
        "NonMaxSuppression" => super::vision::suppress(site),
        _ => Ok(None),
    }
}

fn constant(site: &mut Site<'_, '_, '_>) -> Found {
    let array = if let Some(array) = site.tensor("value")? {
        array
    } else if site.has("value_float") {
        Array::scalar(site.float("value_float", 0.0)?)
    } else if site.has("value_int") {
        Array::scalar(site.int("value_int", 0)?)
    } else if site.has("value_string") {
        Array::scalar(site.text("value_string", "")?.into_bytes())
    } else if let Some(floats) = site.floats("value_floats")? {
        Array::list(floats)
    } else if let Some(ints) = site.ints("value_ints")? {
        Array::list(ints)
    } else if let Some(texts) = site.texts("value_strings")? {
        Array::list(texts)
    } else {
        return Err(PlanError::unsupported("a constant of this kind"));
    };
    found(site.add(array)?)
}

fn constant_of_shape(site: &mut Site<'_, '_, '_>) -> Found {
    let value = site.tensor("value")?.unwrap_or_else(|| Array::list(vec![0.0_f32]));
    let shape = sizes_of(&site.constant(0)?)?;
    let _count = shape::count(&shape)?;
    let value = site.add(value.reshaped([])?)?;
    found(site.one(Expand { shape }, &[value])?)
}

fn shape_of(site: &mut Site<'_, '_, '_>) -> Found {
    let shape = site.fact(0)?.shape;
    let rank = i64::try_from(shape.len()).unwrap_or(0);
    let bound = |bound: i64| {
        usize::try_from(if bound < 0 { bound + rank } else { bound }.clamp(0, rank)).unwrap_or(0)
    };
    let (start, end) = (bound(site.int("start", 0)?), bound(site.int("end", rank)?));
    let dims = shape.get(start..end.max(start)).unwrap_or_default();
    let dims = dims.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect();
    found(site.list::<i64>(dims)?)
}

fn range(site: &mut Site<'_, '_, '_>) -> Found {
    let (start, limit, step) = (site.constant(0)?, site.constant(1)?, site.constant(2)?);
    let too_many = || PlanError::TooLarge {
        what: "the length of a range".to_owned(),
        limit: shape::MAX_ELEMENTS as u64,
    };
    let array = if is_int(start.datatype()) {
        let whole = |array: &Array| Ok::<_, PlanError>(i128::from(array.int()?));
        let (first, end, by) = (whole(&start)?, whole(&limit)?, whole(&step)?);
        let span = if by > 0 { end - first } else { first - end };
        let count = if by == 0 {
            return Err(PlanError::value("a range with step 0"));
        } else if span <= 0 {
            0
        } else {
            (span - 1) / by.abs() + 1
        };
        let count = usize::try_from(count).ok().filter(|count| *count <= 1 << 28).ok_or_else(too_many)?;
        site.reserve(&Fact::new(start.datatype(), [count]))?;
        Array::from_wholes(
            start.datatype(),
            [count],
            (0..).take(count).map(|at: i128| first + at * by).collect(),
        )?
    } else {
        let (first, end, by) = (start.real()?, limit.real()?, step.real()?);
        let count = ((end - first) / by).ceil().max(0.0);
        if !(0.0..=f64::from(1 << 28)).contains(&count) {
            return Err(too_many());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        let count = count as usize;
        site.reserve(&Fact::new(start.datatype(), [count]))?;
        Array::from_reals(
            start.datatype(),
            [count],
            (0_u32..).take(count).map(|at| first + f64::from(at) * by).collect(),
        )?
    };
    found(site.add(array)?)
}

fn eye(site: &mut Site<'_, '_, '_>) -> Found {
    let fact = site.fact(0)?;
    let to = site.maybe_int("dtype")?.map_or(Ok(fact.datatype), datatype)?;
    let [rows, columns] = fact.shape[..] else {
        return Err(PlanError::shape("a unit matrix of other than two axes"));
    };
    site.reserve(&fact.with(to))?;
    let ahead = site.int("k", 0)?;
    let items = (0..rows * columns).map(|at| {
        let (row, column) = (at / columns, at % columns);
        let on =
            i64::try_from(column).unwrap_or(0).checked_sub(i64::try_from(row).unwrap_or(0)) == Some(ahead);
        f64::from(u8::from(on))
    });
    let array = Array::from_reals(to, fact.shape.clone(), items.collect())?;
    found(site.add(array)?)
}

fn non_zero(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.constant(0)?;
    let strides = shape::strides(x.shape());
    let places: Vec<usize> =
        x.reals()?.iter().enumerate().filter(|(_, item)| **item != 0.0).map(|(at, _)| at).collect();
    site.reserve(&Fact::new(Datatype::Int64, [x.shape().len(), places.len()]))?;
    let rows = strides.iter().zip(x.shape()).flat_map(|(stride, dim)| {
        places.iter().map(move |place| i64::try_from(place / stride % dim).unwrap_or(0))
    });
    let array = Array::new::<i64>([x.shape().len(), places.len()], rows.collect())?;
    found(site.add(array)?)
}

fn compress(site: &mut Site<'_, '_, '_>) -> Found {
    let (mut x, condition) = (site.id(0)?, site.constant(1)?);
    let mut axis = 0;
    if site.has("axis") {
        axis = site.axis(0, site.rank(0)?)?;
    } else {
        let count = site.fact(0)?.elements();
        x = site.reshape(x, [count])?;
    }
    let kept =
        condition.reals()?.iter().zip(0_i64..).filter(|(item, _)| **item != 0.0).map(|(_, at)| at).collect();
    let indices = site.list::<i64>(kept)?;
    found(site.one(Gather { axis }, &[x, indices])?)
}

fn unique(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.constant(0)?;
    // Slices along the axis, or all elements, as rows that are compared.
    let (x, axis) = if site.has("axis") {
        (x.clone(), site.axis(0, x.shape().len())?)
    } else {
        (x.reshaped([x.len()])?, 0)
    };
    let count = x.shape().get(axis).copied().unwrap_or(0);
    let perm: Vec<usize> = [axis].into_iter().chain((0..x.shape().len()).filter(|at| *at != axis)).collect();
    let turned = crate::op::movement::transposed(&x, &perm)?;
    let width = turned.len().checked_div(count).unwrap_or(0);
    let keys: Vec<Vec<Key>> = keys(&turned)?.chunks(width.max(1)).map(<[Key]>::to_vec).collect();
    let mut order: Vec<usize> = (0..count).collect();
    if site.flag("sorted", true)? {
        order.sort_by(|a, b| keys.get(*a).cmp(&keys.get(*b)).then(a.cmp(b)));
    }
    let mut groups: Vec<(usize, i64)> = Vec::new();
    let mut which = std::collections::BTreeMap::new();
    let mut inverse = vec![0_i64; count];
    for at in order {
        let group = *which.entry(keys.get(at)).or_insert_with(|| {
            groups.push((at, 0));
            groups.len() - 1
        });
        if let Some((first, times)) = groups.get_mut(group) {
            *first = at.min(*first);
            *times += 1;
        }
        if let Some(slot) = inverse.get_mut(at) {
            *slot = i64::try_from(group).unwrap_or(0);
        }
    }
    let mut shape = turned.shape().to_vec();
    if let Some(dim) = shape.first_mut() {
        *dim = groups.len();
    }
    let places = groups.iter().flat_map(|(first, _)| first * width..(first + 1) * width);
    let kept = turned.pick(shape, places)?;
    let mut back = vec![0; perm.len()];
    for (to, from) in perm.iter().enumerate() {
        if let Some(slot) = back.get_mut(*from) {
            *slot = to;
        }
    }
    let kept = crate::op::movement::transposed(&kept, &back)?;
    let firsts = groups.iter().map(|(first, _)| i64::try_from(*first).unwrap_or(0)).collect();
    let counts = groups.iter().map(|(_, times)| *times).collect();
    let outputs = [kept, Array::list::<i64>(firsts), Array::list(inverse), Array::list::<i64>(counts)];
    all(outputs.into_iter().map(|array| site.add(array)).collect::<Result<_, _>>()?)
}

/// An element that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(i128),
    Text(Vec<u8>),
}

fn keys(x: &Array) -> Result<Vec<Key>, PlanError> {
    if let Some(texts) = x.items::<Vec<u8>>() {
        return Ok(texts.iter().cloned().map(Key::Text).collect());
    }
    if is_int(x.datatype()) || x.datatype() == Datatype::Bool {
        return Ok(x.wholes()?.into_iter().map(Key::Number).collect());
    }
    // The bits of a float, turned so that they order as the numbers do.
    let ordered = |x: f64| {
        let bits = (x + 0.0).to_bits().cast_signed();
        i128::from(if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits })
    };
    Ok(x.reals()?.into_iter().map(|item| Key::Number(ordered(item))).collect())
}
