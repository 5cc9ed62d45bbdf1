//! The model section and the golden vectors.

use std::collections::{BTreeMap, BTreeSet};

use agentd_types::{Datatype, MAX_ELEMENTS, TensorSpec};
use agentd_wire::{FileEntry, Golden, ModelSection};

use crate::{Cause, Reject, fields::Fields, json::Value, reject::quoted};

/// Reads `model`; everything malformed is `model`.
pub(super) fn read_model(value: &Value, files: &[FileEntry]) -> Result<ModelSection, Reject> {
    let fields = Fields::of(value, Cause::Model, "the model section")?;
    fields.only(&["format", "entry", "inputs", "outputs"])?;
    let (format, entry) = (fields.text("format")?, fields.text("entry")?);
    if format != "onnx" {
        return Err(fields.refuse(&format!("has the format {}, not `onnx`", quoted(format))));
    }
    if !is_file(files, entry) {
        return Err(
            fields.refuse(&format!("has the entry {}, which is not a file of the bundle", quoted(entry)))
        );
    }
    Ok(ModelSection {
        format: format.to_owned(),
        entry: entry.to_owned(),
        inputs: read_tensors(fields.list("inputs")?)?,
        outputs: read_tensors(fields.list("outputs")?)?,
    })
}

fn is_file(files: &[FileEntry], path: &str) -> bool {
    // Sorted by path: `files` was read before.
    files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok()
}

fn read_tensors(items: &[Value]) -> Result<Vec<TensorSpec>, Reject> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::with_capacity(items.len());
    for item in items {
        let fields = Fields::of(item, Cause::Model, "a tensor of the model")?;
        fields.only(&["name", "datatype", "shape"])?;
        let name = fields.text("name")?;
        if !names.insert(name) {
            return Err(fields.refuse(&format!("has a name that another has: {}", quoted(name))));
        }
        tensors.push(TensorSpec {
            name: name.to_owned(),
            datatype: fields.parsed::<Datatype>("datatype", "a datatype of the Open Inference Protocol")?,
            shape: read_shape(&fields)?,
        });
    }
    Ok(tensors)
}

fn read_shape(fields: &Fields<'_>) -> Result<Vec<i64>, Reject> {
    let dims: Option<Vec<i64>> = fields
        .list("shape")?
        .iter()
        .map(|dim| match dim {
            Value::Int(size @ -1..) => Some(*size),
            _ => None,
        })
        .collect();
    let dims = dims.ok_or_else(|| fields.wrong("shape", "a list of sizes, -1 for a free one"))?;
    // A dimension of 0 makes the tensor empty, however large the others are.
    let product = if dims.contains(&0) {
        Some(0)
    } else {
        dims.iter()
            .filter(|dim| **dim > 0)
            .try_fold(1_u64, |product, dim| product.checked_mul(dim.unsigned_abs()))
    };
    match product {
        Some(count) if count <= MAX_ELEMENTS => Ok(dims),
        _ => Err(fields.refuse("has a shape of more than 2^32 elements")),
    }
}

/// Reads `golden`; everything malformed is `golden`.
pub(super) fn read_golden(
    fields: &Fields<'_>,
    model: &ModelSection,
    files: &[FileEntry],
) -> Result<Vec<Golden>, Reject> {
    let refuse = |why: &str| Reject::new(Cause::Golden, why);
    let Value::List(items) = fields.get("golden")? else {
        return Err(refuse("`golden` is not a list"));
    };
    if items.is_empty() {
        return Err(refuse("the bundle has no golden vectors"));
    }
    items.iter().map(|item| read_vectors(item, model, files)).collect()
}

fn read_vectors(value: &Value, model: &ModelSection, files: &[FileEntry]) -> Result<Golden, Reject> {
    let fields = Fields::of(value, Cause::Golden, "a golden vector")?;
    fields.only(&["inputs", "outputs", "tol_ppm"])?;
    let inputs = read_tensor_files(&fields, "inputs", &model.inputs, files)?;
    let outputs = read_tensor_files(&fields, "outputs", &model.outputs, files)?;
    if let Some(absent) = model.inputs.iter().find(|tensor| !inputs.contains_key(&tensor.name)) {
        return Err(fields.refuse(&format!("lacks the input {}", quoted(&absent.name))));
    }
    if outputs.is_empty() {
        return Err(fields.refuse("has no outputs"));
    }
    Ok(Golden { inputs, outputs, tol_ppm: fields.count("tol_ppm", 0)? })
}

fn read_tensor_files(
    fields: &Fields<'_>,
    side: &str,
    tensors: &[TensorSpec],
    files: &[FileEntry],
) -> Result<BTreeMap<String, String>, Reject> {
    let mut paths = BTreeMap::new();
    for (name, path) in fields.map(side)? {
        if !tensors.iter().any(|tensor| tensor.name == *name) {
            return Err(
                fields.refuse(&format!("names {}, which is not among the model's {side}", quoted(name)))
            );
        }
        let Value::Text(path) = path else {
            return Err(fields.wrong(side, "an object of paths"));
        };
        if !path.ends_with(".npy") || !is_file(files, path) {
            let why = format!("names {}, which is not an `.npy` file of the bundle", quoted(path));
            return Err(fields.refuse(&why));
        }
        paths.insert(name.clone(), path.clone());
    }
    Ok(paths)
}
