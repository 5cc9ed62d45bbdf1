//! `agentctl model infer`: a prediction from files.

use std::{fs, path::PathBuf};

use agentd_engine::{Tensor, read_npy};
use agentd_types::{Datatype, ModelName};
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// What to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentctl model infer demo/digits seven.npy\n  \
    agentctl model infer demo/digits --input image=seven.npy --json")]
pub(crate) struct Args {
    /// The model.
    model: ModelName,
    /// NumPy files, in the order of the model's inputs.
    #[arg(value_name = "FILE.npy")]
    files: Vec<PathBuf>,
    /// An input by its name.
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<String>,
}

pub(super) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot ask `{}`", args.model);
    let server = context.predictions();
    let metadata = context.block_on(async {
        server.model_metadata(&args.model).await.map_err(|error| Failure::of_client(&what, &error))
    })?;
    let names: Vec<&str> = metadata
        .get("inputs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|input| input.get("name").and_then(Value::as_str))
        .collect();
    let request = json!({ "inputs": inputs(&args, &names, &what)? });
    let answer = context.block_on(async {
        server.infer(&args.model, &request).await.map_err(|error| Failure::of_client(&what, &error))
    })?;
    let ui = context.ui();
    ui.result(&answer, || {
        for output in answer.get("outputs").and_then(Value::as_array).into_iter().flatten() {
            ui.line(line(output));
        }
    });
    Ok(Exit::Done)
}

fn inputs(args: &Args, names: &[&str], what: &str) -> Result<Vec<Value>, Failure> {
    let usage = |cause: String| {
        let hint = format!("the model's inputs are: {}", names.join(", "));
        Failure::new(what).cause(cause).hint(hint).exit_with(Exit::Usage)
    };
    let mut given: Vec<(String, PathBuf)> = Vec::new();
    for (position, file) in args.files.iter().enumerate() {
        let Some(name) = names.get(position) else {
            return Err(usage(format!("{} files for {} inputs", args.files.len(), names.len())));
        };
        given.push(((*name).to_owned(), file.clone()));
    }
    for input in &args.input {
        let Some((name, file)) = input.split_once('=') else {
            return Err(usage(format!("`{input}` is not of the form NAME=FILE.npy")));
        };
        given.push((name.to_owned(), file.into()));
    }
    if given.is_empty() {
        return Err(usage("no input is given".to_owned()));
    }
    given.iter().map(|(name, file)| input(name, file, what)).collect()
}

fn input(name: &str, file: &PathBuf, what: &str) -> Result<Value, Failure> {
    let unreadable = format!("{what} about `{}`", file.display());
    let bytes = fs::read(file).map_err(|error| Failure::new(&unreadable).because(&error))?;
    let tensor = read_npy(&bytes).map_err(|error| {
        Failure::new(&unreadable).because(&error).hint("save it with numpy.save").exit_with(Exit::Usage)
    })?;
    Ok(json!({ "name": name, "datatype": tensor.datatype, "shape": tensor.shape, "data": data(&tensor) }))
}

/// The elements as JSON has them.
fn data(tensor: &Tensor) -> Vec<Value> {
    let whole = |bytes: &[u8; 8]| match tensor.datatype {
        Datatype::Uint64 => Value::from(u64::from_le_bytes(*bytes)),
        _ => Value::from(i64::from_le_bytes(*bytes)),
    };
    match tensor.datatype {
        Datatype::Int64 | Datatype::Uint64 => tensor.bytes.as_chunks::<8>().0.iter().map(whole).collect(),
        Datatype::Bool => tensor.bytes.iter().map(|byte| Value::from(*byte != 0)).collect(),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => {
            tensor.view().to_f64().into_iter().map(Value::from).collect()
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers of at most 32 bits")]
        Datatype::Uint8
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32 => tensor.view().to_f64().into_iter().map(|v| Value::from(v as i64)).collect(),
    }
}

/// An output on one line; long ones are cut.
fn line(output: &Value) -> String {
    let text = |name: &str| output.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let shape: Vec<String> = output
        .get("shape")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    let data = output.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = data.iter().take(16).map(ToString::to_string).collect();
    let rest = if data.len() > 16 { format!(" ... {} more", data.len() - 16) } else { String::new() };
    format!("{} {}[{}]: {}{rest}", text("name"), text("datatype"), shape.join(","), shown.join(" "))
}
