//! Inputs and outputs of a model: what the file claims, and whether a manifest says the same.

use agentd_types::{Code, Coded, TensorSpec};

use super::{
    ModelSummary,
    error::{ScanError, shown},
};
use crate::{
    proto::{self, r#type, value_info},
    tensor::{MAX_RANK, count},
    wire::{Span, WireError},
};

/// A `ValueInfoProto`.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) name: &'a str,
    kind: ClaimedKind,
}

#[derive(Clone, Debug)]
enum ClaimedKind {
    /// ONNX's number of the datatype, and dimensions when given.
    Tensor(u64, Option<Vec<i64>>),
    Other,
    Missing,
}

impl<'a> Claim<'a> {
    pub(crate) fn read(span: Span<'a>) -> Result<Self, WireError> {
        let (mut name, mut kind) = (None, None);
        for field in span.fields() {
            let field = field?;
            match field.number {
                value_info::NAME => field.once(&mut name, field.text()?)?,
                value_info::TYPE => field.once(&mut kind, field.bytes()?)?,
                _ => {}
            }
        }
        let kind = kind.map_or(Ok(ClaimedKind::Missing), read_type)?;
        Ok(Self { name: name.unwrap_or_default(), kind })
    }

    /// Dimensions when the claim has them.
    pub(crate) fn dims(&self) -> Option<&[i64]> {
        match &self.kind {
            ClaimedKind::Tensor(_, dims) => dims.as_deref(),
            ClaimedKind::Other | ClaimedKind::Missing => None,
        }
    }

    /// The claim as a tensor that can be served, and whether it has a shape.
    pub(crate) fn spec(&self, role: &'static str) -> Result<(TensorSpec, bool), ScanError> {
        let fault = |reason| ScanError::Interface { role, name: shown(self.name), reason };
        let (number, dims) = match &self.kind {
            ClaimedKind::Tensor(number, dims) => (*number, dims),
            ClaimedKind::Other => {
                return Err(fault(
                    "is a sequence, map or optional, not a tensor (scikit-learn: zipmap=False)",
                ));
            }
            ClaimedKind::Missing => return Err(fault("has no type")),
        };
        let datatype =
            proto::datatype(number).ok_or_else(|| fault("has a datatype that cannot be served"))?;
        let shape = dims.clone().unwrap_or_default();
        let counted: Vec<i64> = shape.iter().map(|dim| if *dim < 0 { 1 } else { *dim }).collect();
        if count(&counted).is_none() {
            return Err(fault("has more than 32 dimensions or 2^32 elements"));
        }
        Ok((TensorSpec { name: self.name.to_owned(), datatype, shape }, dims.is_some()))
    }
}

fn read_type(span: Span<'_>) -> Result<ClaimedKind, WireError> {
    let mut tensor = None;
    let mut other = false;
    for field in span.fields() {
        let field = field?;
        match field.number {
            r#type::TENSOR => field.once(&mut tensor, field.bytes()?)?,
            r#type::DENOTATION => {}
            _ => other = true,
        }
    }
    match tensor {
        Some(tensor) if !other => read_tensor_type(tensor),
        _ => Ok(ClaimedKind::Other),
    }
}

fn read_tensor_type(span: Span<'_>) -> Result<ClaimedKind, WireError> {
    let (mut number, mut shape) = (None, None);
    for field in span.fields() {
        let field = field?;
        match field.number {
            r#type::ELEM_TYPE => field.once(&mut number, field.varint()?)?,
            r#type::SHAPE => field.once(&mut shape, field.bytes()?)?,
            _ => {}
        }
    }
    let dims = shape.map(read_shape).transpose()?;
    Ok(ClaimedKind::Tensor(number.unwrap_or_default(), dims))
}

fn read_shape(span: Span<'_>) -> Result<Vec<i64>, WireError> {
    let mut dims = Vec::new();
    for field in span.fields() {
        let field = field?;
        if field.number == r#type::DIM && dims.len() <= MAX_RANK {
            let mut value = None;
            for part in field.bytes()?.fields() {
                let part = part?;
                if part.number == r#type::DIM_VALUE {
                    part.once(&mut value, part.varint()?.cast_signed())?;
                }
            }
            // Some exporters write -1 for a free dimension, others 0: no served tensor is empty by nature.
            dims.push(value.filter(|dim| *dim > 0).unwrap_or(-1));
        }
    }
    Ok(dims)
}

/// A manifest that says other inputs or outputs than the model has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's {role} `{name}` {reason}")]
pub struct InterfaceError {
    role: &'static str,
    name: String,
    reason: String,
}

impl Coded for InterfaceError {
    fn code(&self) -> Code {
        Code::new("onnx.interface")
    }
}

impl ModelSummary {
    /// Holds the inputs and outputs that a manifest states against the model's.
    ///
    /// Inputs must be all of the model's, of the same datatype and rank, and may fix a dimension that the model leaves
    /// free, but not free one that it fixes. Outputs must be some of the model's, of the same datatype; their shapes in
    /// the file are claims that exporters often get wrong, so they are not compared.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_interface(
        &self,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(), InterfaceError> {
        for spec in &self.inputs {
            if !inputs.iter().any(|input| input.name == spec.name) {
                return Err(differs("input", &spec.name, "is missing in the description".into()));
            }
        }
        inputs.iter().try_for_each(|input| check_input(&self.inputs, input))?;
        outputs.iter().try_for_each(|output| {
            let spec = find(&self.outputs, "output", output)?;
            check_datatype("output", spec, output)
        })
    }
}

fn check_input(model: &[TensorSpec], input: &TensorSpec) -> Result<(), InterfaceError> {
    let spec = find(model, "input", input)?;
    check_datatype("input", spec, input)?;
    let fits = |(have, want): (&i64, &i64)| *have < 0 || have == want;
    if spec.shape.len() == input.shape.len() && spec.shape.iter().zip(&input.shape).all(fits) {
        Ok(())
    } else {
        let reason = format!("has shape {:?}, not {:?}", spec.shape, input.shape);
        Err(differs("input", &input.name, reason))
    }
}

fn find<'m>(
    model: &'m [TensorSpec],
    role: &'static str,
    wanted: &TensorSpec,
) -> Result<&'m TensorSpec, InterfaceError> {
    model
        .iter()
        .find(|spec| spec.name == wanted.name)
        .ok_or_else(|| differs(role, &wanted.name, "does not exist in the file".into()))
}

fn check_datatype(role: &'static str, spec: &TensorSpec, wanted: &TensorSpec) -> Result<(), InterfaceError> {
    if spec.datatype == wanted.datatype {
        Ok(())
    } else {
        Err(differs(role, &wanted.name, format!("is {}, not {}", spec.datatype, wanted.datatype)))
    }
}

fn differs(role: &'static str, name: &str, reason: String) -> InterfaceError {
    InterfaceError { role, name: shown(name), reason }
}
