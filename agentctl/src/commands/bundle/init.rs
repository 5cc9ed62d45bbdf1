//! `bundle init`: from an ONNX file to a described folder that can be packed.
//!
//! In: a model and, for golden vectors, inputs that a person gives. Out: a folder with the model, `bundle.toml` with a
//! comment at every field, templates of card and licence, and golden vectors. The model is scanned first and then run
//! in a worker process, never here. Overwrites nothing.

mod arguments;
mod describe;
mod run;
mod sample;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use agentd_engine::{Tensor, write_npy};
use agentd_onnx::{ModelSummary, ScanLimits};
use agentd_types::{ModelName, TensorSpec};
use serde::Serialize;

use super::{card_template, licence_template, pack::DESCRIPTION, text::plural};
use crate::{
    bundle_file::{read_bounded, write_whole},
    context::Context,
    failure::{Exit, Failure},
    ui::Ui,
};
pub(crate) use arguments::Args;
use describe::Plan;

/// What was written.
#[derive(Debug, Serialize)]
struct Report {
    folder: String,
    name: ModelName,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    golden: usize,
    mem_mib: u64,
}

/// Inputs and the outputs that the model gave for them.
#[derive(Debug)]
struct Vector {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot describe `{}`", args.model.display());
    let limits = ScanLimits::default();
    let bytes = read_bounded(&args.model, limits.bytes).map_err(|error| Failure::new(&what).coded(&error))?;
    let model = agentd_onnx::scan(&bytes, &limits).map_err(|error| Failure::new(&what).coded(&error))?;
    check_model(&model).map_err(|(cause, hint)| Failure::new(&what).cause(cause).hint(hint))?;
    let (name, folder) =
        place(&args).map_err(|failure| Failure::new(&what).cause(failure).exit_with(Exit::Usage))?;
    if fs::symlink_metadata(folder.join(DESCRIPTION)).is_ok() {
        let cause = format!("`{}` holds a {DESCRIPTION} already", folder.display());
        return Err(Failure::new(what).cause(cause).hint("choose another --out, or remove it"));
    }
    let samples = sample::samples(&model.inputs, &args).map_err(|problem| {
        Failure::new(&what).cause(problem.cause).hint(problem.hint).exit_with(Exit::Usage)
    })?;
    let answered = context.block_on(run::answer(&bytes, &model, samples, context.ui()))?;
    let plan = Plan {
        name,
        model: &model,
        outputs: describe::outputs(&model.outputs, &answered.vectors),
        golden: answered.vectors.len(),
        mem_mib: answered.mem_mib,
        created: context.now(),
    };
    write(&folder, &bytes, &plan, &answered.vectors)
        .map_err(|error| Failure::new(&what).cause(format!("`{}`: {error}", folder.display())))?;
    let report = Report {
        folder: folder.display().to_string(),
        name: plan.name.clone(),
        inputs: model.inputs.clone(),
        outputs: plan.outputs.clone(),
        golden: plan.golden,
        mem_mib: plan.mem_mib,
    };
    let ui = context.ui();
    ui.result(&report, || report.print(ui));
    ui.note(format!(
        "next: read {DESCRIPTION}, fill in card.md and LICENCE.txt, then agentctl bundle pack {}",
        report.folder
    ));
    Ok(Exit::Done)
}

/// Cause and hint when a bundle cannot be described by what the file says.
fn check_model(model: &ModelSummary) -> Result<(), (String, &'static str)> {
    if let Some(name) = model.unranked_outputs.first() {
        let cause =
            format!("the file does not say how many dimensions the output `{}` has", name.escape_debug());
        return Err((
            cause,
            "export the model with shapes, for example with onnx.shape_inference.infer_shapes",
        ));
    }
    if model.inputs.is_empty() {
        return Err(("the model has no inputs".to_owned(), "a model without inputs answers nothing"));
    }
    Ok(())
}

/// The model's name and the folder to write.
fn place(args: &Args) -> Result<(ModelName, PathBuf), String> {
    let stem = args.model.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => default_name(&stem).ok_or("the file's name makes no model name: give --name demo/digits")?,
    };
    if name.is_local() {
        return Err("names that end in @local belong to models that devices make".to_owned());
    }
    let own = name.as_str().rsplit('/').next().unwrap_or("model").to_owned();
    Ok((name, args.out.clone().unwrap_or_else(|| PathBuf::from(own))))
}

/// `Crack Finder.onnx` becomes `demo/crack-finder`.
fn default_name(stem: &str) -> Option<ModelName> {
    let plain: String = stem
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect();
    format!("demo/{}", plain.trim_start_matches(['.', '_', '-'])).parse().ok()
}

/// Files first, the description last, so that a folder with a description is whole.
fn write(folder: &Path, model: &[u8], plan: &Plan<'_>, vectors: &[Vector]) -> std::io::Result<()> {
    let put = |path: &str, bytes: &[u8]| {
        let place = folder.join(path);
        // What a person has filled in already stays.
        if path.starts_with("golden/") || path.ends_with(".onnx") || !place.exists() {
            write_whole(&place, |out| out.write_all(bytes))?;
        }
        Ok::<_, std::io::Error>(())
    };
    put("model.onnx", model)?;
    put("card.md", card_template(plan.name.as_str()).as_bytes())?;
    put("LICENCE.txt", licence_template().as_bytes())?;
    for (number, vector) in vectors.iter().enumerate() {
        let inputs =
            vector.inputs.iter().enumerate().map(|(at, tensor)| (describe::input_path(number, at), tensor));
        let outputs =
            vector.outputs.iter().enumerate().map(|(at, tensor)| (describe::output_path(number, at), tensor));
        for (path, tensor) in inputs.chain(outputs) {
            put(&path, &write_npy(tensor).map_err(std::io::Error::other)?)?;
        }
    }
    put(DESCRIPTION, plan.text().as_bytes())
}

impl Report {
    fn print(&self, ui: Ui) {
        self.lines().into_iter().for_each(|line| ui.line(line));
    }

    fn lines(&self) -> Vec<String> {
        let spec = |role: &str, spec: &TensorSpec| {
            let TensorSpec { name, datatype, shape } = spec;
            format!("{role:<8} {}   {datatype} {shape:?}", name.escape_debug())
        };
        let mut lines = vec![format!("{} in {}", self.name, self.folder)];
        lines.extend(self.inputs.iter().map(|input| spec("input", input)));
        lines.extend(self.outputs.iter().map(|output| spec("output", output)));
        lines.push(format!("{:<8} {}", "golden", plural(self.golden, "vector")));
        lines.push(format!("{:<8} {} MiB", "memory", self.mem_mib));
        lines
    }
}

#[cfg(test)]
mod tests {
    use agentd_types::Datatype;

    use super::*;

    #[test]
    fn a_file_name_becomes_a_model_name() {
        for (stem, want) in [
            ("digits", Some("demo/digits")),
            ("Crack Finder", Some("demo/crack-finder")),
            ("_x", Some("demo/x")),
            ("", None),
        ] {
            assert_eq!(default_name(stem).as_ref().map(ModelName::as_str), want, "{stem}");
        }
    }

    #[test]
    fn the_report_reads_like_this() {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.into(),
        };
        let report = Report {
            folder: "digits".into(),
            name: "demo/digits".parse().unwrap(),
            inputs: vec![spec("image", &[-1, 1, 8, 8])],
            outputs: vec![spec("probabilities", &[-1, 10])],
            golden: 3,
            mem_mib: 48,
        };
        insta::assert_snapshot!(report.lines().join("\n"));
    }
}
