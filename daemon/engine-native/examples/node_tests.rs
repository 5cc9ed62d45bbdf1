//! Runs ONNX's backend node tests by import, the interpreter and the native engine, for `tests/python/node_tests.py`.
//!
//! `node_tests FOLDER [FROM]`: `FOLDER/test_NAME/model.onnx` with `test_data_set_0/input_i.pb` and `output_i.pb`, in the
//! order of their names, from FROM on. One JSON object a line on standard output, at once, so that a crash costs one case:
//! `{"name", "operator", "form", "interpreter", "native", "fallbacks"}`. Each case is tried in several forms, as real models
//! have their inputs: all given at run time; what is no float constant; all but the first constant; all constant. `form`
//! is the first in which the interpreter is right. A verdict is `pass`, `wrong: WHY`, `refused: CODE: WHY` or
//! `unread: WHY`, when the data cannot be read. The interpreter runs the graph as imported and fused; the engine runs
//! the fused one with portable kernels and with those of this machine, with strict and with fast numerics.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a tool for developers"
)]

use std::{
    fs, panic,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentd_engine_native::{Isa, Model as Native, Options};
use agentd_onnx::read::{Model, Tensor};
use agentd_plan::{
    Array, Fact, Given, Graph, Numerics, PlanError, array::is_float, fuse, import_model, tensor_array,
};
use agentd_types::{Coded, Datatype, chain};
use serde_json::json;

/// What a form of a case came to.
#[derive(Default)]
struct Verdicts {
    interpreter: String,
    native: String,
    fallbacks: Vec<String>,
}

/// A case's data.
struct Case<'a> {
    model: Model<'a>,
    inputs: Vec<Array>,
    outputs: Vec<Array>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let from = arguments.next().unwrap_or_default();
    let files =
        fs::read_dir(&folder).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut names: Vec<String> =
        files.filter(|name| *name >= from && folder.join(name).join("model.onnx").exists()).collect();
    names.sort();
    for name in names {
        println!("{}", judged(&name, &folder.join(&name)));
    }
}

fn judged(name: &str, path: &Path) -> serde_json::Value {
    let unread = |why: String| json!({ "name": name, "interpreter": why, "native": why, "fallbacks": [] });
    let file = fs::read(path.join("model.onnx")).unwrap();
    let model = match Model::read(&file) {
        Ok(model) => model,
        Err(error) => return unread(refused(&error)),
    };
    let operator = model.graph.nodes.iter().find(|node| node.operator != "Constant");
    let operator = operator.map_or("?", |node| node.operator).to_owned();
    let data = path.join("test_data_set_0");
    let case = match (tensors(&data, "input"), tensors(&data, "output")) {
        (Ok(inputs), Ok(outputs)) => Case { model, inputs, outputs },
        (Err(why), _) | (_, Err(why)) => return unread(format!("unread: {why}")),
    };
    let forms: [(&str, &dyn Fn(usize, &Array) -> bool); 4] = [
        ("as it stands", &|_, _| false),
        ("what is no float constant", &|_, array| !is_float(array.datatype())),
        ("all but the first constant", &|at, _| at > 0),
        ("all constant", &|_, _| true),
    ];
    let mut answer = json!(null);
    for (form, is_constant) in forms {
        let verdicts = panic::catch_unwind(panic::AssertUnwindSafe(|| attempt(&case, is_constant)));
        let verdicts = verdicts.unwrap_or_else(|_| Verdicts {
            interpreter: "crashed: a panic".to_owned(),
            native: "crashed: a panic".to_owned(),
            fallbacks: Vec::new(),
        });
        answer = json!({
            "name": name, "operator": operator, "form": form, "interpreter": verdicts.interpreter,
            "native": verdicts.native, "fallbacks": verdicts.fallbacks,
        });
        if !verdicts.interpreter.starts_with("refused") {
            break;
        }
    }
    answer
}

fn refused(error: &impl Coded) -> String {
    format!("refused: {}: {}", error.code(), chain(error))
}

fn attempt(case: &Case<'_>, is_constant: &dyn Fn(usize, &Array) -> bool) -> Verdicts {
    let both = |why: String| Verdicts { interpreter: why.clone(), native: why, fallbacks: Vec::new() };
    let (graph, given) = match graph_of(case, is_constant) {
        Ok(found) => found,
        Err(error) => return both(refused(&error)),
    };
    let mut verdicts = Verdicts { interpreter: "pass".to_owned(), ..Verdicts::default() };
    let strict = match fuse(&graph, Numerics::Strict) {
        Ok(graph) => graph,
        Err(error) => return both(refused(&error)),
    };
    for graph in [&graph, &strict] {
        let verdict = match graph.run(&ordered(graph, &given)) {
            Ok(found) => judge(&found, &case.outputs),
            Err(error) => refused(&error),
        };
        if verdict != "pass" {
            verdicts.interpreter = verdict;
        }
    }
    (verdicts.native, verdicts.fallbacks) = natives(&graph, strict, &given, &case.outputs);
    verdicts
}

/// The graph, and the arrays that it is given at run time by name.
fn graph_of<'a>(
    case: &Case<'a>,
    is_constant: &dyn Fn(usize, &Array) -> bool,
) -> Result<(Graph, Vec<(&'a str, Array)>), PlanError> {
    let names = case.model.graph.inputs.iter().map(|input| input.name);
    let (constants, given): (Vec<_>, Vec<_>) = names
        .zip(case.inputs.iter().cloned())
        .enumerate()
        .partition(|(at, (_, array))| is_constant(*at, array));
    let plain = |list: Vec<(usize, (&'a str, Array))>| list.into_iter().map(|(_, entry)| entry).collect();
    let (constants, given): (Vec<_>, Vec<(&str, Array)>) = (plain(constants), plain(given));
    let shapes: Vec<(&str, Fact)> = given.iter().map(|(name, array)| (*name, array.fact())).collect();
    let graph =
        import_model(&case.model, &Given { shapes: &shapes, constants: &constants, ..Given::default() })?;
    Ok((graph, given))
}

fn ordered(graph: &Graph, given: &[(&str, Array)]) -> Vec<Array> {
    let find = |id| given.iter().find(|(name, _)| *name == graph.value(id).name);
    graph.inputs().iter().filter_map(|id| find(*id).map(|(_, array)| array.clone())).collect()
}

/// The engine's verdict: the first that is no pass; and what the interpreter did for it.
fn natives(
    graph: &Graph,
    strict: Graph,
    given: &[(&str, Array)],
    outputs: &[Array],
) -> (String, Vec<String>) {
    let fast = match fuse(graph, Numerics::Fast) {
        Ok(graph) => Arc::new(graph),
        Err(error) => return (refused(&error), Vec::new()),
    };
    let strict = Arc::new(strict);
    let (mut verdict, mut fallbacks) = ("pass".to_owned(), Vec::new());
    for (graph, isa, numerics) in [
        (&strict, Isa::Portable, Numerics::Strict),
        (&strict, Isa::detect(), Numerics::Strict),
        (&fast, Isa::detect(), Numerics::Fast),
    ] {
        let mut model = match Native::new(Arc::clone(graph), Options { isa, numerics }) {
            Ok(model) => model,
            Err(error) => return (format!("refused: native: {}", chain(&error)), fallbacks),
        };
        fallbacks = model.fallbacks().iter().map(|name| (*name).to_owned()).collect();
        let now = match model.run_arrays(&ordered(graph, given)) {
            Ok(found) => judge(&found, outputs),
            Err(error) => format!("refused: native: {}", chain(&error)),
        };
        if now != "pass" && verdict == "pass" {
            verdict = now;
        }
    }
    (verdict, fallbacks)
}

/// The tensors of `data/KIND_i.pb`, or which of them is none that we read.
fn tensors(data: &Path, kind: &str) -> Result<Vec<Array>, String> {
    let mut list = Vec::new();
    while let Ok(file) = fs::read(data.join(format!("{kind}_{}.pb", list.len()))) {
        let tensor = Tensor::from_file(&file).map_err(|error| chain(&error))?;
        list.push(tensor_array(&tensor).map_err(|error| chain(&error))?);
    }
    Ok(list)
}

fn judge(found: &[Array], wanted: &[Array]) -> String {
    if found.len() != wanted.len() {
        return format!("wrong: {} outputs, not {}", found.len(), wanted.len());
    }
    let far = found.iter().zip(wanted).find_map(|(found, wanted)| difference(found, wanted));
    far.map_or_else(|| "pass".to_owned(), |why| format!("wrong: {why}"))
}

/// What differs, with a relative tolerance of 1e-3 and an absolute one of 1e-5.
fn difference(got: &Array, want: &Array) -> Option<String> {
    if got.fact() != want.fact() {
        return Some(format!("{:?} where {:?} is right", got.fact(), want.fact()));
    }
    if got.datatype() == Datatype::Bytes || !is_float(got.datatype()) {
        return (got != want).then(|| format!("{got:?} where {want:?} is right").chars().take(400).collect());
    }
    let (got, want) = (got.reals().unwrap(), want.reals().unwrap());
    let far = |(a, b): &(&f64, &f64)| {
        let near = (*a - *b).abs() <= 1e-5 + 1e-3 * b.abs();
        !(near || a.partial_cmp(b).is_some_and(std::cmp::Ordering::is_eq) || a.is_nan() && b.is_nan())
    };
    let count = got.iter().zip(&want).filter(far).count();
    let first = got.iter().zip(&want).find(far)?;
    Some(format!("{count} of {} elements, first {first:?}", want.len()))
}
