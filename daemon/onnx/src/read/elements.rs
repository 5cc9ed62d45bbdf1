//! Tensors in the file, and their elements.

use super::{ReadError, attribute::read_floats};
use crate::{
    proto::{self, tensor},
    tensor::{RawTensor, TensorFault, numbers},
    wire::{self, Span},
};

/// A tensor as it stands in the file.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    raw: RawTensor<'a>,
}

/// Elements of a tensor. Floats of 16 bits are given as their bits.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the datatype of its name")]
pub enum Elements {
    Bool(Vec<bool>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Text(Vec<Vec<u8>>),
}

impl<'a> Tensor<'a> {
    /// Reads a tensor that stands alone in its file, as test data do.
    ///
    /// # Errors
    /// [`ReadError::Wire`].
    pub fn from_file(file: &'a [u8]) -> Result<Self, ReadError> {
        Self::read(Span::file(file))
    }

    pub(super) fn read(span: Span<'a>) -> Result<Self, ReadError> {
        Ok(Self { raw: RawTensor::read(span)? })
    }

    /// Its name.
    pub const fn name(&self) -> &'a str {
        self.raw.name
    }

    /// ONNX's number of its datatype.
    pub const fn datatype(&self) -> u64 {
        self.raw.number
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[i64] {
        &self.raw.dims
    }

    /// Its elements as they lie in the file, where they lie there side by side in little-endian.
    pub fn raw_bytes(&self) -> Option<&'a [u8]> {
        self.raw.raw_bytes()
    }

    /// Its elements, row-major; as many as its dimensions say.
    ///
    /// # Errors
    /// [`ReadError::Tensor`] when its claims do not hold, or its datatype is none of [`Elements`].
    pub fn elements(&self) -> Result<Elements, ReadError> {
        let fault = |source| ReadError::Tensor { tensor: self.name().chars().take(80).collect(), source };
        self.raw.check().map_err(fault)?;
        if let Some(raw) = self.raw.raw_bytes() {
            return from_raw(self.datatype(), raw)
                .ok_or_else(|| fault(TensorFault::Datatype(self.datatype())));
        }
        let mut typed = Typed::default();
        for field in self.raw.span().fields() {
            let field = field?;
            match field.number {
                tensor::FLOAT_DATA => read_floats(field.value, &mut typed.floats),
                tensor::DOUBLE_DATA => read_doubles(field.value, &mut typed.doubles),
                tensor::INT32_DATA | tensor::INT64_DATA | tensor::UINT64_DATA => {
                    numbers(field.value, &mut |number| typed.ints.push(number))?;
                }
                tensor::STRING_DATA => typed.texts.push(field.bytes()?.bytes.to_vec()),
                _ => {}
            }
        }
        typed.elements(self.datatype()).ok_or_else(|| fault(TensorFault::Datatype(self.datatype())))
    }
}

fn read_doubles(value: wire::Value<'_>, doubles: &mut Vec<f64>) {
    match value {
        wire::Value::Fixed64(bits) => doubles.push(f64::from_bits(bits)),
        wire::Value::Bytes(span) => {
            doubles.extend(span.bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)));
        }
        wire::Value::Varint(_) | wire::Value::Fixed32(_) => {}
    }
}

fn chunks<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}

fn from_raw(number: u64, raw: &[u8]) -> Option<Elements> {
    use agentd_types::Datatype;
    Some(match proto::datatype(number)? {
        Datatype::Bool => Elements::Bool(raw.iter().map(|byte| *byte != 0).collect()),
        Datatype::Uint8 => Elements::U8(raw.to_vec()),
        Datatype::Uint16 => Elements::U16(chunks(raw, u16::from_le_bytes)),
        Datatype::Uint32 => Elements::U32(chunks(raw, u32::from_le_bytes)),
        Datatype::Uint64 => Elements::U64(chunks(raw, u64::from_le_bytes)),
        Datatype::Int8 => Elements::I8(raw.iter().map(|byte| byte.cast_signed()).collect()),
        Datatype::Int16 => Elements::I16(chunks(raw, i16::from_le_bytes)),
        Datatype::Int32 => Elements::I32(chunks(raw, i32::from_le_bytes)),
        Datatype::Int64 => Elements::I64(chunks(raw, i64::from_le_bytes)),
        Datatype::Fp16 => Elements::F16(chunks(raw, u16::from_le_bytes)),
        Datatype::Bf16 => Elements::Bf16(chunks(raw, u16::from_le_bytes)),
        Datatype::Fp32 => Elements::F32(chunks(raw, f32::from_le_bytes)),
        Datatype::Fp64 => Elements::F64(chunks(raw, f64::from_le_bytes)),
        Datatype::Bytes => return None,
    })
}

/// Elements in typed fields.
#[derive(Default)]
struct Typed {
    floats: Vec<f32>,
    doubles: Vec<f64>,
    /// Numbers as they stand; negative ones are extended to 64 bits.
    ints: Vec<u64>,
    texts: Vec<Vec<u8>>,
}

impl Typed {
    /// Elements of ONNX's datatype `number`. Source: comments of `TensorProto` in `onnx.proto`.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are the element")]
    fn elements(self, number: u64) -> Option<Elements> {
        use agentd_types::Datatype;
        let ints = self.ints.into_iter();
        Some(match proto::datatype(number)? {
            Datatype::Bool => Elements::Bool(ints.map(|number| number != 0).collect()),
            Datatype::Uint8 => Elements::U8(ints.map(|number| number as u8).collect()),
            Datatype::Uint16 => Elements::U16(ints.map(|number| number as u16).collect()),
            Datatype::Uint32 => Elements::U32(ints.map(|number| number as u32).collect()),
            Datatype::Uint64 => Elements::U64(ints.collect()),
            Datatype::Int8 => Elements::I8(ints.map(|number| (number as u8).cast_signed()).collect()),
            Datatype::Int16 => Elements::I16(ints.map(|number| (number as u16).cast_signed()).collect()),
            Datatype::Int32 => Elements::I32(ints.map(|number| (number as u32).cast_signed()).collect()),
            Datatype::Int64 => Elements::I64(ints.map(u64::cast_signed).collect()),
            Datatype::Fp16 => Elements::F16(ints.map(|number| number as u16).collect()),
            Datatype::Bf16 => Elements::Bf16(ints.map(|number| number as u16).collect()),
            Datatype::Fp32 => Elements::F32(self.floats),
            Datatype::Fp64 => Elements::F64(self.doubles),
            Datatype::Bytes => Elements::Text(self.texts),
        })
    }
}
