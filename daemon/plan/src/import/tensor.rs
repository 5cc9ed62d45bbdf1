//! Tensors of the file as arrays.

use agentd_onnx::read::{Elements, Tensor};
use half::{bf16, f16};

use crate::{array::Array, error::PlanError};

/// A tensor of the file as an array.
///
/// # Errors
/// What is wrong with the tensor.
pub fn array(tensor: &Tensor<'_>) -> Result<Array, PlanError> {
    let dims = tensor.dims().iter().map(|dim| usize::try_from(*dim));
    let shape = dims.collect::<Result<Vec<_>, _>>().map_err(|_| PlanError::shape("a negative dimension"))?;
    match tensor.elements()? {
        Elements::Bool(items) => Array::new(shape, items),
        Elements::U8(items) => Array::new(shape, items),
        Elements::U16(items) => Array::new(shape, items),
        Elements::U32(items) => Array::new(shape, items),
        Elements::U64(items) => Array::new(shape, items),
        Elements::I8(items) => Array::new(shape, items),
        Elements::I16(items) => Array::new(shape, items),
        Elements::I32(items) => Array::new(shape, items),
        Elements::I64(items) => Array::new(shape, items),
        Elements::F16(items) => Array::new(shape, items.into_iter().map(f16::from_bits).collect()),
        Elements::Bf16(items) => Array::new(shape, items.into_iter().map(bf16::from_bits).collect()),
        Elements::F32(items) => Array::new(shape, items),
        Elements::F64(items) => Array::new(shape, items),
        Elements::Text(items) => Array::new(shape, items),
    }
}
