//! Operators on texts.

use std::collections::{BTreeMap, BTreeSet};

use agentd_types::Datatype;

use super::{
    movement::sizes_of,
    site::{Found, Site, all, found},
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::{NgramCount, TextOp, ngram::Tokens, text::with_case},
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "StringConcat" => {
            let ids = site.ids()?;
            found(site.one(TextOp::Join, &ids)?)
        }
        "StringNormalizer" => normalize(site),
        "StringSplit" => split(site),
        "TfIdfVectorizer" => count_ngrams(site),
        _ => Ok(None),
    }
}

/// Another case, and no stop words. How many texts are left depends on them, so with stop words they must be constant.
fn normalize(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    if !matches!(shape[..], [_] | [1, _]) {
        return Err(PlanError::shape(format!("texts of shape {shape:?} normalised")));
    }
    let case = match site.text("case_change_action", "NONE")?.as_str() {
        "NONE" => None,
        "LOWER" => Some(TextOp::Lower),
        "UPPER" => Some(TextOp::Upper),
        other => return Err(PlanError::attribute(format!("a change of case to `{other}`"))),
    };
    let stops = site.texts("stopwords")?.unwrap_or_default();
    if stops.is_empty() {
        return found(case.map_or(Ok(x), |case| site.one(case, &[x]))?);
    }
    let sensitive = site.flag("is_case_sensitive", false)?;
    let key = |text: &[u8]| if sensitive { Ok(text.to_vec()) } else { with_case(text, false) };
    let stops = stops.iter().map(|stop| key(stop)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut kept = Vec::new();
    for text in site.constant(0)?.view::<Vec<u8>>()? {
        if !stops.contains(&key(text)?) {
            kept.push(match case {
                Some(case) => with_case(text, case == TextOp::Upper)?,
                None => text.clone(),
            });
        }
    }
    if kept.is_empty() {
        kept.push(Vec::new());
    }
    let mut shape = shape;
    if let Some(last) = shape.last_mut() {
        *last = kept.len();
    }
    found(site.add(Array::new(shape, kept)?)?)
}

/// The parts of constant texts, and how many each has.
fn split(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.constant(0)?;
    let delimiter = site.text("delimiter", "")?;
    let most = match site.maybe_int("maxsplit")? {
        Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let texts = x.view::<Vec<u8>>()?;
    let parts =
        texts.iter().map(|text| pieces(text, delimiter.as_bytes(), most)).collect::<Result<Vec<_>, _>>()?;
    let widest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut shape = x.shape().to_vec();
    let counts: Vec<i64> = parts.iter().map(|parts| i64::try_from(parts.len()).unwrap_or(i64::MAX)).collect();
    let counts = Array::new(shape.clone(), counts)?;
    shape.push(widest);
    site.reserve(&Fact::new(Datatype::Bytes, shape.clone()))?;
    let padded = parts.into_iter().flat_map(|mut parts| {
        parts.resize(widest, Vec::new());
        parts
    });
    let padded = Array::new(shape, padded.collect())?;
    all(vec![site.add(padded)?, site.add(counts)?])
}

/// The parts of one text: between delimiters, of which none means runs of white space. `most` times at most.
fn pieces(text: &[u8], delimiter: &[u8], most: usize) -> Result<Vec<Vec<u8>>, PlanError> {
    let fault = |_| PlanError::value("a text that is not in UTF-8");
    let (mut rest, delimiter) =
        (str::from_utf8(text).map_err(fault)?, str::from_utf8(delimiter).map_err(fault)?);
    if !delimiter.is_empty() {
        return Ok(match text {
            [] => Vec::new(),
            _ => {
                rest.splitn(most.saturating_add(1), delimiter).map(|part| part.as_bytes().to_vec()).collect()
            }
        });
    }
    let mut parts = Vec::new();
    rest = rest.trim();
    while !rest.is_empty() {
        match rest.find(char::is_whitespace).filter(|_| parts.len() < most) {
            Some(end) => {
                let (part, after) = rest.split_at(end);
                parts.push(part.as_bytes().to_vec());
                rest = after.trim_start();
            }
            None => {
                parts.push(rest.as_bytes().to_vec());
                break;
            }
        }
    }
    Ok(parts)
}

/// The pool of tokens, numbered, and all its items as numbers.
fn pool(site: &Site<'_, '_, '_>) -> Result<(Tokens, Vec<usize>), PlanError> {
    fn numbered<T: Ord + Clone>(items: &[T]) -> (BTreeMap<T, usize>, Vec<usize>) {
        let mut known = BTreeMap::new();
        let numbers = items.iter().map(|item| {
            let next = known.len();
            *known.entry(item.clone()).or_insert(next)
        });
        let numbers = numbers.collect();
        (known, numbers)
    }
    match (site.ints("pool_int64s")?, site.texts("pool_strings")?) {
        (Some(items), None) => {
            let (known, numbers) = numbered(&items);
            Ok((Tokens::Ints(known), numbers))
        }
        (None, Some(items)) => {
            let (known, numbers) = numbered(&items);
            Ok((Tokens::Texts(known), numbers))
        }
        _ => Err(PlanError::attribute("a pool of integers or one of texts is needed")),
    }
}

fn count_ngrams(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let (tokens, items) = pool(site)?;
    let sizes = |name: &str| sizes_of(&Array::list(site.ints(name)?.unwrap_or_default()));
    let (starts, columns) = (sizes("ngram_counts")?, sizes("ngram_indexes")?);
    let (mut grams, mut columns_left) = (BTreeMap::new(), columns.iter());
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).copied().unwrap_or(items.len());
        let part =
            items.get(*start..end).ok_or_else(|| PlanError::attribute("n-grams outside their pool"))?;
        for gram in part.chunks_exact(at + 1) {
            let column =
                columns_left.next().ok_or_else(|| PlanError::attribute("an n-gram without column"))?;
            grams.insert(gram.to_vec(), *column);
        }
    }
    let width = columns.iter().max().map_or(0, |last| last.saturating_add(1));
    let _count = shape::count(&[width])?;
    let mut weights = site.floats("weights")?.unwrap_or_default();
    let once = match site.text("mode", "TF")?.as_str() {
        "TF" => {
            weights.clear();
            false
        }
        "IDF" => true,
        "TFIDF" => false,
        other => return Err(PlanError::attribute(format!("n-grams counted by `{other}`"))),
    };
    if !weights.is_empty() && weights.len() < width {
        return Err(PlanError::attribute("fewer weights than columns"));
    }
    let (shortest, longest) = (site.size("min_gram_length", 1)?, site.size("max_gram_length", 1)?);
    let skips = site.size("max_skip_count", 0)?;
    if shortest == 0 || longest < shortest {
        return Err(PlanError::attribute(format!("n-grams of {shortest} to {longest} tokens")));
    }
    found(site.one(NgramCount { tokens, grams, shortest, longest, skips, width, once, weights }, &[x])?)
}
