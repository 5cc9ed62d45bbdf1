//! One case, taken all ways; and where they part.

use std::{panic, sync::Arc};

use agentd_engine_native::{Isa, Model as Native, Options};
use agentd_onnx::read::Model;
use agentd_plan::{Array, Given, Graph, ImportLimits, Numerics, array::is_float, fuse, import_model};
use agentd_types::{Coded as _, Datatype, chain};

use crate::mutation::{self, Random};

const LIMITS: ImportLimits =
    ImportLimits { nodes: 5_000, folded_bytes: 1 << 25, value_bytes: 1 << 25, folded_work: 1 << 24 };
/// Graphs that take more are not run.
const MAX_WORK: u64 = 1 << 20;
/// Graphs whose values take more bytes are not lowered.
const MAX_BYTES: usize = 1 << 28;

/// `KIND` or `KIND: why`.
pub(crate) fn outcome(seeds: &[(String, Vec<u8>)], seed: u64, case: u64, loud: bool) -> String {
    let mut random = Random::new(seed, case);
    let (name, file) = &seeds[random.below(seeds.len())];
    let mut file = file.clone();
    if random.one_in(3) {
        mutation::bytes(&mut random, &mut file);
    }
    if loud {
        println!("{name}");
        return one(&mut random, &file, true);
    }
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| one(&mut random, &file, false)));
    let result = result.unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<String>().cloned();
        format!(
            "PANIC: {}",
            said.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        )
    });
    let shown = result.chars().take(500).collect::<String>().replace('\n', " ");
    if result.starts_with(|first: char| first.is_ascii_uppercase()) {
        format!("{shown} [{name}]")
    } else {
        shown
    }
}

fn one(random: &mut Random, file: &[u8], loud: bool) -> String {
    let mut model = match Model::read(file) {
        Ok(model) => model,
        Err(error) => return format!("refused {}", error.code()),
    };
    let claims: Vec<_> =
        model.graph.inputs.iter().map(|input| (input.name, input.datatype(), input.dims.clone())).collect();
    if !random.one_in(4) {
        mutation::model(random, &mut model);
    }
    let (mut shapes, mut constants, mut given) = (Vec::new(), Vec::new(), Vec::new());
    for (name, datatype, dims) in &claims {
        let fact = mutation::fact(random, datatype.unwrap_or(Datatype::Fp32), dims.as_deref());
        let Some(array) = mutation::array(random, &fact) else { return "too large for a case".to_owned() };
        if random.one_in(5) || !is_float(fact.datatype) && !random.one_in(3) {
            constants.push((*name, array));
        } else {
            shapes.push((*name, fact));
            given.push((*name, array));
        }
    }
    if loud {
        println!("{:#?}\ngiven {given:?}\nconstant {constants:?}", model.graph);
    }
    let graph = match import_model(&model, &Given { shapes: &shapes, constants: &constants, limits: LIMITS })
    {
        Ok(graph) => graph,
        Err(error) => {
            if loud {
                println!("{}", chain(&error));
            }
            return format!("refused {}", error.code());
        }
    };
    compared(&graph, &given, loud)
}

/// Names and elements of what a graph is given.
type Feed<'a> = [(&'a str, Array)];

fn compared(graph: &Graph, given: &Feed<'_>, loud: bool) -> String {
    let strict = fuse(graph, Numerics::Strict).map(Arc::new);
    let fast = fuse(graph, Numerics::Fast).map(Arc::new);
    let (Ok(strict), Ok(fast)) = (&strict, &fast) else {
        return format!("DIFFER: fusion refused: {:?}", strict.err().or(fast.err()));
    };
    let bytes = graph.values().iter().fold(0_usize, |sum, value| sum.saturating_add(value.fact.bytes()));
    if graph.work() > MAX_WORK || bytes > MAX_BYTES {
        return "too much work for a case".to_owned();
    }
    let plain = graph.run(&ordered(graph, given));
    let mut seen = vec![("interpreter".to_owned(), plain.map_err(|error| chain(&error)))];
    seen.push(("strict".to_owned(), strict.run(&ordered(strict, given)).map_err(|error| chain(&error))));
    seen.push(("fast".to_owned(), fast.run(&ordered(fast, given)).map_err(|error| chain(&error))));
    let (mut fallback, texts) = (false, [graph, &**strict, &**fast].into_iter().any(has_texts));
    for (graph, numerics) in [(strict, Numerics::Strict), (fast, Numerics::Fast)] {
        for isa in [Isa::Portable, Isa::detect()].into_iter().filter(|_| !texts) {
            let way = format!("native {numerics:?} {}", isa.as_str());
            let mut model = match Native::new(Arc::clone(graph), Options { isa, numerics }) {
                Ok(model) => model,
                Err(error) => return format!("DIFFER: {way} refused: {}", chain(&error)),
            };
            fallback |= model.fallback_nodes() > 0;
            let first = model.run_arrays(&ordered(graph, given)).map_err(|error| chain(&error));
            let second = model.run_arrays(&ordered(graph, given)).map_err(|error| chain(&error));
            if first.as_deref().map(bits) != second.as_deref().map(bits) {
                return format!("DIFFER: {way} gives other bits the second time");
            }
            seen.push((way, first));
        }
    }
    if loud {
        println!("{seen:#?}");
    }
    let right = &seen[0].1;
    for (way, found) in &seen[1..] {
        if let Some(why) = parted(found, right) {
            return format!("DIFFER: {way}: {why}");
        }
    }
    // The engine refuses what the interpreter refuses of the same graph.
    for (way, found) in &seen[3..] {
        let fused = &seen[if way.contains("Strict") { 1 } else { 2 }].1;
        if let (Ok(_), Err(why)) = (found, fused) {
            return format!("DIFFER: {way} answers where it should refuse: {why}");
        }
    }
    let runs = if right.is_ok() { "right" } else { "refused at run time" };
    format!("{runs}{}", if fallback { ", partly by the interpreter" } else { "" })
}

/// Arrays to the last bit.
fn bits(arrays: &[Array]) -> Vec<Vec<u8>> {
    let bytes = |array: &Array| {
        let mut bytes = vec![0; array.fact().bytes()];
        array.write_bytes(&mut bytes);
        bytes
    };
    arrays.iter().map(bytes).collect()
}

/// The engine knows no texts.
fn has_texts(graph: &Graph) -> bool {
    graph.values().iter().any(|value| value.fact.datatype == Datatype::Bytes)
}

fn ordered(graph: &Graph, given: &Feed<'_>) -> Vec<Array> {
    let find = |id| given.iter().find(|(name, _)| *name == graph.value(id).name);
    graph.inputs().iter().filter_map(|id| find(*id).map(|(_, array)| array.clone())).collect()
}

fn parted(found: &Result<Vec<Array>, String>, right: &Result<Vec<Array>, String>) -> Option<String> {
    match (found, right) {
        // A node whose output nobody needs may be fused away with what it would have refused.
        (Ok(_), Err(_)) => None,
        (Err(_), Err(_)) => None,
        (Err(why), Ok(_)) => Some(format!("refused: {why}")),
        (Ok(found), Ok(right)) if found.len() != right.len() => Some("another number of outputs".to_owned()),
        (Ok(found), Ok(right)) => found.iter().zip(right).find_map(|(found, right)| difference(found, right)),
    }
}

/// Far apart for single precision, measured by the largest element.
fn difference(found: &Array, right: &Array) -> Option<String> {
    if found.fact() != right.fact() {
        return Some(format!("{:?} where {:?} is right", found.fact(), right.fact()));
    }
    if found.datatype() == Datatype::Bytes {
        return (found != right).then(|| "other texts".to_owned());
    }
    let (found, right) = (found.reals().ok()?, right.reals().ok()?);
    let top = right.iter().filter(|item| item.is_finite()).fold(0.0_f64, |top, item| top.max(item.abs()));
    let near = |a: f64, b: f64| {
        a.partial_cmp(&b).is_some_and(std::cmp::Ordering::is_eq)
            || a.is_nan() && b.is_nan()
            || (a - b).abs() <= 1e-4 + 2e-3 * b.abs() + 1e-4 * top
            // Sums beyond single precision.
            || b.abs() > 1e37 || a.abs() > 1e37
    };
    let at = found.iter().zip(&right).position(|(a, b)| !near(*a, *b))?;
    Some(format!("element {at} of {} is {} where {} is right", right.len(), found[at], right[at]))
}
