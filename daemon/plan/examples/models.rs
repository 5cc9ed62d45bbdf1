//! Runs models by the interpreter and compares with reference outputs.
//!
//! `models FOLDER [NAME..]`: `FOLDER/NAME.onnx`, and in `FOLDER/ref/NAME` numpy files `in_CASE_i.npy` and `out_CASE_i.npy`
//! with a `cases.json` that names cases, inputs and outputs. Prints the largest error relative to the largest output.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::type_complexity,
    clippy::string_slice,
    reason = "a tool for developers"
)]

use std::{fs, path::Path, time::Instant};

use agentd_plan::{Array, Fact, Given, Graph, Numerics, fuse, import};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".to_owned());
    let mut names: Vec<String> = arguments.collect();
    if names.is_empty() {
        let files =
            fs::read_dir(&folder).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names = files.filter_map(|name| name.strip_suffix(".onnx").map(str::to_owned)).collect();
        names.sort();
    }
    for name in names {
        match check(Path::new(&folder), &name) {
            Ok(text) => println!("{name:32} {text}"),
            Err(text) => println!("{name:32} FAILED {text}"),
        }
    }
}

fn check(folder: &Path, name: &str) -> Result<String, String> {
    let file = fs::read(folder.join(format!("{name}.onnx"))).map_err(|error| error.to_string())?;
    let cases = folder.join("ref").join(name);
    let index = fs::read_to_string(cases.join("cases.json")).map_err(|error| error.to_string())?;
    let (inputs, outputs) = (names(&index, "inputs"), names(&index, "outputs"));
    let mut worst = (0.0_f64, true);
    let mut seconds = (0.0, 0.0);
    let (mut nodes, mut fused_nodes) = (0, 0);
    for case in names(&index, "cases") {
        let arrays: Vec<Array> = (0..inputs.len())
            .map(|at| numpy(&cases.join(format!("in_{case}_{at}.npy"))))
            .collect::<Result<_, _>>()?;
        let is_baked = |array: &Array| array.shape().is_empty();
        let facts: Vec<Fact> = arrays.iter().map(Array::fact).collect();
        let given = |baked: bool| {
            inputs.iter().zip(&arrays).zip(&facts).filter(move |((_, array), _)| is_baked(array) == baked)
        };
        let shapes: Vec<(&str, Fact)> =
            given(false).map(|((name, _), fact)| (name.as_str(), fact.clone())).collect();
        let constants: Vec<(&str, Array)> =
            given(true).map(|((name, array), _)| (name.as_str(), array.clone())).collect();
        let start = Instant::now();
        let graph = import(&file, &Given { shapes: &shapes, constants: &constants, ..Given::default() })
            .map_err(|error| agentd_types::chain(&error))?;
        seconds.0 += start.elapsed().as_secs_f64();
        let fused = fuse(&graph, Numerics::Fast).map_err(|error| agentd_types::chain(&error))?;
        (nodes, fused_nodes) = (graph.nodes().len(), fused.nodes().len());
        let start = Instant::now();
        let results = run(&fused, &inputs, &arrays)?;
        seconds.1 += start.elapsed().as_secs_f64();
        for (at, output) in outputs.iter().enumerate() {
            let want = numpy(&cases.join(format!("out_{case}_{at}.npy")))?;
            let found =
                fused.outputs().iter().position(|(name, _)| name == output).ok_or("an output is missing")?;
            let (error, same) = compare(&results[found], &want)?;
            worst = (worst.0.max(error), worst.1 && same);
        }
    }
    let arg_max = if worst.1 { "" } else { "  ARG-MAX DIFFERS" };
    Ok(format!(
        "error {:9.2e}  nodes {nodes:5} fused {fused_nodes:5}  import {:6.3} s  runs {:7.3} s{arg_max}",
        worst.0, seconds.0, seconds.1
    ))
}

fn run(graph: &Graph, names: &[String], arrays: &[Array]) -> Result<Vec<Array>, String> {
    let ordered: Vec<Array> = graph
        .inputs()
        .iter()
        .map(|id| arrays[names.iter().position(|name| *name == graph.value(*id).name).unwrap()].clone())
        .collect();
    graph.run(&ordered).map_err(|error| agentd_types::chain(&error))
}

/// Largest difference by largest size, and whether the largest elements stand at one place.
fn compare(got: &Array, want: &Array) -> Result<(f64, bool), String> {
    if got.shape() != want.shape() {
        return Err(format!("shape {:?} where {:?} is right", got.shape(), want.shape()));
    }
    if let Some(texts) = want.items::<Vec<u8>>() {
        return Ok((0.0, got.items::<Vec<u8>>() == Some(texts)));
    }
    let (got, want) = (got.reals().unwrap(), want.reals().unwrap());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
    if cosine < 0.9999 {
        println!("    cosine {cosine:.6}, largest {:.3e}", want.iter().fold(0.0_f64, |a, b| a.max(b.abs())));
    }
    let size = want.iter().filter(|x| x.is_finite()).fold(1e-6_f64, |a, b| a.max(b.abs()));
    let difference =
        |(a, b): (&f64, &f64)| if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
    let error = got
        .iter()
        .zip(&want)
        .map(difference)
        .fold(0.0_f64, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) });
    let top = |list: &[f64]| list.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
    let same = match (top(&got), top(&want)) {
        (Some(a), Some(b)) => a == b || (want[a] - want[b]).abs() <= 1e-4 * size,
        (a, b) => a == b,
    };
    Ok((error / size, same))
}

/// The texts of a list in a file of JSON that holds nothing but lists of plain texts.
fn names(json: &str, key: &str) -> Vec<String> {
    let Some((_, rest)) = json.split_once(&format!("\"{key}\": [")) else { return Vec::new() };
    let list = rest.split(']').next().unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn numpy(path: &Path) -> Result<Array, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (length, start) = match bytes[6] {
        1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        _ => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
    };
    let header = String::from_utf8_lossy(&bytes[start..start + length]).into_owned();
    let data = &bytes[start + length..];
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> = shape.split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
    let kind = header.split("'descr': '").nth(1).unwrap().split('\'').next().unwrap();
    let array = match kind {
        "<f4" => {
            Array::new(shape, data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
        "<f8" => {
            Array::new(shape, data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
        }
        "<i4" => {
            Array::new(shape, data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect())
        }
        "<i8" => {
            Array::new(shape, data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
        }
        "|b1" => Array::new(shape, data.iter().map(|byte| *byte != 0).collect()),
        "|u1" => Array::new(shape, data.to_vec()),
        text if text.starts_with("<U") => {
            let width = text[2..].parse::<usize>().unwrap() * 4;
            let read = |cell: &[u8]| {
                let letters = cell.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                let letters = letters.filter_map(char::from_u32).take_while(|letter| *letter != '\0');
                letters.collect::<String>().into_bytes()
            };
            Array::new(shape, data.chunks(width.max(1)).map(read).collect())
        }
        other => return Err(format!("numpy type {other}")),
    };
    array.map_err(|error| error.to_string())
}
