//! Runs ONNX's backend node tests by import and the interpreter.
//!
//! `node_tests FOLDER [PART]`: `FOLDER/test_NAME/model.onnx` with `test_data_set_0/input_i.pb` and `output_i.pb`. Each
//! case is tried with all inputs given at run time, then with those that are no floats constant, then with all but the
//! first constant, as real models have them. Prints passed, wrong and refused cases by operator, and why.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::type_complexity,
    clippy::string_slice,
    reason = "a tool for developers"
)]

use std::{collections::BTreeMap, fs, path::Path};

use agentd_onnx::read::{Model, Tensor};
use agentd_plan::{Array, Fact, Given, Numerics, array::is_float, fuse, import_model, tensor_array};
use agentd_types::{Coded, chain};

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Passed(&'static str),
    Wrong(String),
    Refused(String, String),
    NoTensor,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".to_owned());
    let part = arguments.next().unwrap_or_default();
    let files =
        fs::read_dir(&folder).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut names: Vec<String> = files.filter(|name| name.contains(&part)).collect();
    names.sort();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut operators: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    for name in names {
        let (operator, outcome) = case(&Path::new(&folder).join(&name));
        let (key, column) = match &outcome {
            Outcome::Passed(how) => (*how, 0),
            Outcome::Wrong(_) => ("wrong", 1),
            Outcome::Refused(..) => ("refused", 2),
            Outcome::NoTensor => ("data that are no tensors we know", 3),
        };
        *counts.entry(key).or_default() += 1;
        operators.entry(operator).or_default()[column] += 1;
        match outcome {
            Outcome::Wrong(why) => println!("WRONG   {name}: {why}"),
            Outcome::Refused(code, why) => println!("REFUSED {name}: {code}: {why}"),
            Outcome::Passed(how) => println!("PASSED  {name}: {how}"),
            Outcome::NoTensor => println!("NODATA  {name}"),
        }
    }
    for (operator, [passed, wrong, refused, none]) in &operators {
        if wrong + refused > 0 {
            println!("{operator:32} passed {passed:3} wrong {wrong:3} refused {refused:3} no data {none:3}");
        }
    }
    println!("{counts:?}");
}

fn case(path: &Path) -> (String, Outcome) {
    let file = fs::read(path.join("model.onnx")).unwrap();
    let model = match Model::read(&file) {
        Ok(model) => model,
        Err(error) => return ("?".to_owned(), Outcome::Refused(error.code().to_string(), chain(&error))),
    };
    let operator = model.graph.nodes.iter().find(|node| node.operator != "Constant");
    let operator = operator.map_or("?", |node| node.operator).to_owned();
    let data = path.join("test_data_set_0");
    let (Some(inputs), Some(outputs)) = (tensors(&data, "input"), tensors(&data, "output")) else {
        return (operator, Outcome::NoTensor);
    };
    let names: Vec<&str> = model.graph.inputs.iter().map(|input| input.name).collect();
    let baked: [(&str, &dyn Fn(usize, &Array) -> bool); 4] = [
        ("as is", &|_, _| false),
        ("what is no float constant", &|_, array| !is_float(array.datatype())),
        ("all but the first constant", &|at, _| at > 0),
        ("all constant", &|_, _| true),
    ];
    let mut last = Outcome::NoTensor;
    for (how, is_baked) in baked {
        last = attempt(&model, &names, &inputs, &outputs, is_baked);
        match &last {
            Outcome::Passed(_) => return (operator, Outcome::Passed(how)),
            Outcome::Wrong(_) => return (operator, last),
            _ => {}
        }
    }
    (operator, last)
}

fn attempt(
    model: &Model<'_>,
    names: &[&str],
    inputs: &[Array],
    outputs: &[Array],
    is_baked: &dyn Fn(usize, &Array) -> bool,
) -> Outcome {
    let (mut shapes, mut constants, mut given): (Vec<(&str, Fact)>, Vec<(&str, Array)>, Vec<(&str, Array)>) =
        Default::default();
    for (at, (name, array)) in names.iter().zip(inputs).enumerate() {
        if is_baked(at, array) {
            constants.push((name, array.clone()));
        } else {
            shapes.push((name, array.fact()));
            given.push((name, array.clone()));
        }
    }
    let refused = |error: agentd_plan::PlanError| Outcome::Refused(error.code().to_string(), chain(&error));
    let graph =
        match import_model(model, &Given { shapes: &shapes, constants: &constants, ..Given::default() }) {
            Ok(graph) => graph,
            Err(error) => return refused(error),
        };
    let fused = match fuse(&graph, Numerics::Strict) {
        Ok(graph) => graph,
        Err(error) => return refused(error),
    };
    for graph in [graph, fused] {
        let ordered: Vec<Array> = graph
            .inputs()
            .iter()
            .filter_map(|id| {
                given.iter().find(|(name, _)| *name == graph.value(*id).name).map(|(_, array)| array.clone())
            })
            .collect();
        let results = match graph.run(&ordered) {
            Ok(results) => results,
            Err(error) => return refused(error),
        };
        for (got, want) in results.iter().zip(outputs) {
            if let Some(why) = difference(got, want) {
                return Outcome::Wrong(why);
            }
        }
    }
    Outcome::Passed("")
}

/// The tensors of `data/KIND_i.pb`; `None` when one is no tensor of a datatype that we know.
fn tensors(data: &Path, kind: &str) -> Option<Vec<Array>> {
    let mut list = Vec::new();
    while let Ok(file) = fs::read(data.join(format!("{kind}_{}.pb", list.len()))) {
        list.push(tensor_array(&Tensor::from_file(&file).ok()?).ok()?);
    }
    Some(list)
}

/// What differs, with a relative tolerance of 1e-3 and an absolute one of 1e-5.
fn difference(got: &Array, want: &Array) -> Option<String> {
    if got.fact() != want.fact() {
        return Some(format!("{:?} where {:?} is right", got.fact(), want.fact()));
    }
    if got.items::<Vec<u8>>().is_some() {
        return (got != want).then(|| "other texts".to_owned());
    }
    let (got, want) = (got.reals().unwrap(), want.reals().unwrap());
    let far = |(a, b): &(&f64, &f64)| {
        !(a == b || a.is_nan() && b.is_nan() || (*a - *b).abs() <= 1e-5 + 1e-3 * b.abs())
    };
    let count = got.iter().zip(&want).filter(far).count();
    let first = got.iter().zip(&want).find(far)?;
    Some(format!("{count} of {} elements, first {first:?}", want.len()))
}
