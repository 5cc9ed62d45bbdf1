//! An inference request, whole and held against the model.
//!
//! In: the body and its two headers. Out: tensors in the model's order and which outputs are wanted in what form.
//! Binary tensors are slices of the body, not copies.

use std::time::Duration;

use agentd_engine::{Tensor, TensorView};
use agentd_types::{Datatype, TensorSpec, element_count};
use bytes::Bytes;

use super::{
    RequestError,
    json::{Header, Input, Parameters, Source, names, parse, shown},
};

/// A request's body and what its headers say of it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) body: Bytes,
    /// `Inference-Header-Content-Length`: where JSON ends and binary begins.
    pub(crate) header_length: Option<usize>,
}

/// A request that fits the model.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: Option<String>,
    /// In the model's order.
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) wanted: Vec<Wanted>,
    /// The longest wait for an instance that the caller asks for.
    pub(crate) patience: Option<Duration>,
}

/// One output that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Which of the model's outputs.
    pub(crate) index: usize,
    pub(crate) form: Form,
}

impl Wanted {
    /// Whether it travels as JSON.
    pub(crate) fn is_json(self) -> bool {
        self.form == Form::Json
    }
}

/// How a tensor travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Binary,
}

/// JSON around the tensors: names, shapes, parameters, the id.
const HEADER_ROOM: u64 = 64 << 10;
/// The longest sensible way to write one number, its comma and blanks.
const JSON_ELEMENT: u64 = 40;

/// The largest body that a request for these inputs can sensibly have, at most `most`.
pub(crate) fn body_limit(inputs: &[TensorSpec], most: u64) -> u64 {
    let tensors = inputs.iter().try_fold(HEADER_ROOM, |sum, spec| {
        let shape: Option<Vec<usize>> = spec.shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let count = u64::try_from(element_count(&shape?).ok()?).ok()?;
        spec.datatype.size()?; // BYTES has no bound of its own
        sum.checked_add(count.checked_mul(JSON_ELEMENT)?)
    });
    tensors.unwrap_or(most).min(most)
}

/// Reads a request for a model with these inputs and outputs.
pub(crate) fn read(
    parts: &Parts,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<Request, RequestError> {
    let length = parts.header_length.unwrap_or(parts.body.len());
    if length == 0 && parts.header_length.is_some() {
        return raw(&parts.body, inputs, outputs);
    }
    let json = parts
        .body
        .get(..length)
        .ok_or_else(|| RequestError::HeaderLength { value: length.to_string(), body: parts.body.len() })?;
    let header = parse(json, inputs)?;
    if let Some(what) = header.parameters.unsupported {
        return Err(RequestError::Unsupported { what });
    }
    let wanted = wanted(&header, outputs)?;
    let tensors = tensors(header.inputs, inputs, parts.body.slice(length..))?;
    let patience = header.parameters.timeout.filter(|us| *us > 0).map(Duration::from_micros);
    Ok(Request { id: header.id, inputs: tensors, wanted, patience })
}

fn tensors(given: Vec<Input>, specs: &[TensorSpec], mut binary: Bytes) -> Result<Vec<Tensor>, RequestError> {
    let got = binary.len();
    let claimed = given.iter().fold(0_u64, |sum, input| match input.source {
        Source::Binary(size) => sum.saturating_add(size),
        Source::Json(_) => sum,
    });
    if u64::try_from(got) != Ok(claimed) {
        return Err(RequestError::BinaryTotal { claimed, got });
    }
    let mut tensors: Vec<Option<Tensor>> = specs.iter().map(|_| None).collect();
    for input in given {
        let (Some(spec), Some(slot)) = (specs.get(input.index), tensors.get_mut(input.index)) else {
            continue;
        };
        if slot.is_some() {
            return Err(RequestError::TwiceInput { name: spec.name.clone() });
        }
        let bytes = match input.source {
            Source::Json(data) => Bytes::from(data),
            Source::Binary(size) => cut(&mut binary, size, spec, &input.shape, input.count)?,
        };
        *slot = Some(Tensor { datatype: spec.datatype, shape: input.shape, bytes });
    }
    let named = specs.iter().zip(tensors);
    named
        .map(|(spec, tensor)| tensor.ok_or_else(|| RequestError::MissingInput { name: spec.name.clone() }))
        .collect()
}

/// Cuts one tensor off the front of what follows the header.
fn cut(
    binary: &mut Bytes,
    size: u64,
    spec: &TensorSpec,
    shape: &[usize],
    count: usize,
) -> Result<Bytes, RequestError> {
    if let Some(element) = spec.datatype.size() {
        let want =
            u64::try_from(count).ok().and_then(|count| count.checked_mul(u64::try_from(element).ok()?));
        if want != Some(size) {
            let want = want.unwrap_or(u64::MAX);
            return Err(RequestError::BinarySize { name: spec.name.clone(), got: size, want });
        }
    }
    let fault = |reason: String| RequestError::Binary { name: spec.name.clone(), reason };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= binary.len())
        .ok_or_else(|| fault("its binary data goes beyond the body".into()))?;
    let bytes = binary.split_to(size);
    let view = TensorView { datatype: spec.datatype, shape, bytes: &bytes };
    view.check().map_err(|error| fault(error.to_string()))?;
    if spec.datatype == Datatype::Bool && bytes.iter().any(|byte| *byte > 1) {
        return Err(fault("a BOOL is a byte of 0 or 1".into()));
    }
    Ok(bytes)
}

/// A body without JSON: the model's only input, all outputs in binary.
fn raw(body: &Bytes, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Request, RequestError> {
    let [spec] = inputs else {
        return Err(RequestError::Unsupported { what: "a raw body needs a model with exactly one input" });
    };
    let (shape, bytes) = match spec.datatype.size() {
        Some(element) => (raw_shape(spec, body.len() / element.max(1))?, body.clone()),
        None => {
            let length = u32::try_from(body.len())
                .map_err(|_| RequestError::TooLarge { limit: u64::from(u32::MAX) })?;
            (raw_shape(spec, 1)?, Bytes::from([&length.to_le_bytes(), &body[..]].concat()))
        }
    };
    let count = element_count(&shape).map_err(|_| RequestError::Elements { name: spec.name.clone() })?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let bytes = cut(&mut bytes.clone(), size, spec, &shape, count)?;
    let wanted = (0..outputs.len()).map(|index| Wanted { index, form: Form::Binary }).collect();
    let inputs = vec![Tensor { datatype: spec.datatype, shape, bytes }];
    Ok(Request { id: None, inputs, wanted, patience: None })
}

/// The shape of a raw body of `count` elements: at most one dimension is free, and takes what is there.
fn raw_shape(spec: &TensorSpec, count: usize) -> Result<Vec<usize>, RequestError> {
    let fixed: Vec<usize> = spec.shape.iter().filter_map(|dim| usize::try_from(*dim).ok()).collect();
    if spec.shape.len() > fixed.len() + 1 {
        return Err(RequestError::Unsupported {
            what: "a raw body needs an input with at most one free dimension",
        });
    }
    let known = element_count(&fixed).map_err(|_| RequestError::Elements { name: spec.name.clone() })?;
    let free = count / known.max(1);
    Ok(spec.shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(free)).collect())
}

fn wanted(header: &Header, specs: &[TensorSpec]) -> Result<Vec<Wanted>, RequestError> {
    let form = |parameters: &Parameters| {
        let binary = parameters.binary_data.or(header.parameters.binary_data_output).unwrap_or(false);
        if binary { Form::Binary } else { Form::Json }
    };
    let Some(outputs) = &header.outputs else {
        let form = form(&Parameters::default());
        return check(specs, (0..specs.len()).map(|index| Wanted { index, form }).collect());
    };
    let mut wanted = Vec::with_capacity(outputs.len().min(specs.len()));
    for output in outputs {
        let index = specs
            .iter()
            .position(|spec| spec.name == output.name)
            .ok_or_else(|| RequestError::UnknownOutput { name: shown(&output.name), known: names(specs) })?;
        if wanted.iter().any(|other: &Wanted| other.index == index) {
            return Err(RequestError::TwiceOutput { name: output.name.clone() });
        }
        wanted.push(Wanted { index, form: form(&output.parameters) });
    }
    check(specs, wanted)
}

/// Refuses, before anything is computed, outputs that JSON has no form for.
fn check(specs: &[TensorSpec], wanted: Vec<Wanted>) -> Result<Vec<Wanted>, RequestError> {
    let bad = wanted.iter().filter(|wanted| wanted.form == Form::Json).find_map(|wanted| {
        specs.get(wanted.index).filter(|spec| matches!(spec.datatype, Datatype::Fp16 | Datatype::Bf16))
    });
    match bad {
        Some(spec) => Err(RequestError::NeedsBinary {
            name: spec.name.clone(),
            reason: "is of a 16-bit float, which JSON cannot hold",
        }),
        None => Ok(wanted),
    }
}
