//! A weight tensor in the file: what it claims to be, where its elements lie, and whether both agree.
//!
//! Refuses data outside the file, sizes out of bounds, and data of another length than shape and datatype say.

use std::ops::Range;

use agentd_types::{Code, Coded, MAX_ELEMENTS};

use crate::{
    proto::tensor,
    wire::{Span, Value, WireError},
};

/// No tensor has more dimensions than this.
pub(crate) const MAX_RANK: usize = 32;

/// `TensorProto.DataLocation.EXTERNAL`
const EXTERNAL: u64 = 1;

/// A tensor as it stands in the file, unchecked.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor<'a> {
    span: Span<'a>,
    pub(crate) name: &'a str,
    /// ONNX's number of the datatype.
    pub(crate) number: u64,
    /// At most `MAX_RANK + 1` are kept.
    pub(crate) dims: Vec<i64>,
    raw: Option<Span<'a>>,
    typed: Typed,
    external: bool,
    segmented: bool,
}

/// Elements given in one of the typed fields.
#[derive(Clone, Debug, Default)]
struct Typed {
    /// The field, 0 for none.
    field: u32,
    mixed: bool,
    count: u64,
    pieces: u32,
    range: Range<usize>,
}

/// A tensor whose claims hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) elements: u64,
    /// Where in the file its elements lie; the whole tensor when they lie in pieces.
    pub(crate) range: Range<usize>,
}

/// Why a tensor's claims do not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    /// The elements are said to lie in another file.
    #[error("keeps its data outside the file: save the model with its weights in one file")]
    External,
    /// The tensor is said to be a part of another one.
    #[error("is split into segments, which nobody reads")]
    Segmented,
    /// ONNX has no such datatype, or we do not know its size.
    #[error("has the unknown datatype {0}")]
    Datatype(u64),
    /// Too many, negative, or too large dimensions.
    #[error("has dimensions that are negative, more than 32, or more than 2^32 elements in all")]
    Dims,
    /// More or fewer bytes than the dimensions say.
    #[error("holds {got} {unit} where its dimensions need {want}")]
    Length {
        /// What is counted: bytes or elements.
        unit: &'static str,
        /// What shape and datatype ask for.
        want: u64,
        /// What the file holds.
        got: u64,
    },
    /// Elements in a field for another datatype, or in two fields.
    #[error("holds its elements in a field for another datatype")]
    Field,
    /// A boolean that is neither 0 nor 1.
    #[error("holds a boolean that is neither 0 nor 1")]
    Bool,
}

impl Coded for TensorFault {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::External => "onnx.external_data",
            Self::Segmented => "onnx.segment",
            Self::Datatype(_) => "onnx.datatype",
            Self::Dims => "onnx.dims",
            Self::Length { .. } | Self::Field | Self::Bool => "onnx.data",
        })
    }
}

impl<'a> RawTensor<'a> {
    /// Reads a `TensorProto`.
    pub(crate) fn read(span: Span<'a>) -> Result<Self, WireError> {
        let (mut name, mut number, mut raw, mut location, mut segment) = (None, None, None, None, None);
        let mut tensor = Self {
            span,
            name: "",
            number: 0,
            dims: Vec::new(),
            raw: None,
            typed: Typed::default(),
            external: false,
            segmented: false,
        };
        for field in span.fields() {
            let field = field?;
            match field.number {
                tensor::DIMS => numbers(field.value, &mut |dim| {
                    if tensor.dims.len() <= MAX_RANK {
                        tensor.dims.push(dim.cast_signed());
                    }
                })?,
                tensor::DATA_TYPE => field.once(&mut number, field.varint()?)?,
                tensor::SEGMENT => field.once(&mut segment, field.bytes()?)?,
                tensor::NAME => field.once(&mut name, field.text()?)?,
                tensor::RAW_DATA => field.once(&mut raw, field.bytes()?)?,
                tensor::EXTERNAL_DATA => tensor.external = true,
                tensor::DATA_LOCATION => field.once(&mut location, field.varint()?)?,
                tensor::FLOAT_DATA
                | tensor::INT32_DATA
                | tensor::STRING_DATA
                | tensor::INT64_DATA
                | tensor::DOUBLE_DATA
                | tensor::UINT64_DATA => tensor.typed.take(field.number, field.value)?,
                _ => {}
            }
        }
        tensor.name = name.unwrap_or_default();
        tensor.number = number.unwrap_or_default();
        tensor.raw = raw.filter(|raw| !raw.bytes.is_empty());
        tensor.external |= location == Some(EXTERNAL);
        tensor.segmented = segment.is_some();
        Ok(tensor)
    }

    /// The whole message.
    pub(crate) const fn span(&self) -> Span<'a> {
        self.span
    }

    /// Its elements, when they stand as raw bytes.
    pub(crate) fn raw_bytes(&self) -> Option<&'a [u8]> {
        self.raw.map(|raw| raw.bytes)
    }

    /// Holds the data against dimensions and datatype.
    pub(crate) fn check(&self) -> Result<Checked, TensorFault> {
        if self.external {
            return Err(TensorFault::External);
        }
        if self.segmented {
            return Err(TensorFault::Segmented);
        }
        let elements = count(&self.dims).ok_or(TensorFault::Dims)?;
        let form = Form::of(self.number).ok_or(TensorFault::Datatype(self.number))?;
        let none = self.span.at..self.span.at;
        match (self.raw, self.typed.field) {
            (None, 0) if elements == 0 => Ok(Checked { elements, range: none }),
            (None, 0) => Err(TensorFault::Length { unit: "elements", want: elements, got: 0 }),
            (Some(raw), 0) => self.check_raw(raw, elements, &form),
            (None, field) if field == form.field && !self.typed.mixed => self.check_typed(elements, &form),
            _ => Err(TensorFault::Field),
        }
    }

    fn check_raw(&self, raw: Span<'_>, elements: u64, form: &Form) -> Result<Checked, TensorFault> {
        if form.bits == 0 {
            return Err(TensorFault::Field);
        }
        let want = (elements * form.bits).div_ceil(8);
        let got = raw.bytes.len() as u64;
        if want != got {
            return Err(TensorFault::Length { unit: "bytes", want, got });
        }
        // Readers may take the bytes as booleans unseen, and then any other value is undefined behaviour.
        if self.number == BOOL && raw.bytes.iter().any(|byte| *byte > 1) {
            return Err(TensorFault::Bool);
        }
        Ok(Checked { elements, range: raw.range() })
    }

    fn check_typed(&self, elements: u64, form: &Form) -> Result<Checked, TensorFault> {
        let want = (elements * form.entries).div_ceil(form.elements);
        let got = self.typed.count;
        if want != got {
            return Err(TensorFault::Length { unit: "elements", want, got });
        }
        let range = if self.typed.pieces == 1 { self.typed.range.clone() } else { self.span.range() };
        Ok(Checked { elements, range })
    }
}

impl Typed {
    fn take(&mut self, field: u32, value: Value<'_>) -> Result<(), WireError> {
        self.mixed |= self.field != 0 && self.field != field;
        self.field = field;
        self.pieces = self.pieces.saturating_add(1);
        match (field, value) {
            (tensor::FLOAT_DATA | tensor::DOUBLE_DATA, Value::Bytes(span)) => {
                let size = if field == tensor::FLOAT_DATA { 4 } else { 8 };
                // A broken tail makes the count wrong by one, which the check of the length refuses.
                self.count += (span.bytes.len() as u64).div_ceil(size);
                self.mixed |= !(span.bytes.len() as u64).is_multiple_of(size);
                self.range = span.range();
            }
            (tensor::INT32_DATA | tensor::INT64_DATA | tensor::UINT64_DATA, Value::Bytes(span)) => {
                numbers(value, &mut |_| self.count += 1)?;
                self.range = span.range();
            }
            (tensor::FLOAT_DATA, Value::Fixed32(_))
            | (tensor::DOUBLE_DATA, Value::Fixed64(_))
            | (tensor::INT32_DATA | tensor::INT64_DATA | tensor::UINT64_DATA, Value::Varint(_))
            | (tensor::STRING_DATA, Value::Bytes(_)) => {
                self.count += 1;
                self.pieces = self.pieces.saturating_add(1);
            }
            _ => self.mixed = true,
        }
        Ok(())
    }
}

/// How many elements a shape has; `None` when out of bounds.
pub(crate) fn count(dims: &[i64]) -> Option<u64> {
    if dims.len() > MAX_RANK {
        return None;
    }
    // Dimensions of 0 do not excuse the others from their bounds.
    let bound = dims.iter().try_fold(1_u64, |product, dim| {
        let dim = u64::try_from(*dim).ok()?;
        product.checked_mul(dim.max(1)).filter(|product| *product <= MAX_ELEMENTS)
    })?;
    Some(if dims.contains(&0) { 0 } else { bound })
}

/// Hands each number of a field that may be packed to `take`.
pub(crate) fn numbers(value: Value<'_>, take: &mut dyn FnMut(u64)) -> Result<(), WireError> {
    match value {
        Value::Varint(number) => take(number),
        Value::Bytes(span) => span.varints().try_for_each(|number| number.map(&mut *take))?,
        Value::Fixed32(_) | Value::Fixed64(_) => {}
    }
    Ok(())
}

const BOOL: u64 = 9;

/// How elements of a datatype are laid out.
struct Form {
    /// Bits of one element in raw data; 0 when raw data is not allowed.
    bits: u64,
    /// The typed field.
    field: u32,
    /// So many entries of the typed field ...
    entries: u64,
    /// ... hold so many elements.
    elements: u64,
}

impl Form {
    /// The layout of ONNX's datatype `number`. Source: comments of `TensorProto` in `onnx.proto`.
    fn of(number: u64) -> Option<Self> {
        let (bits, field, entries, elements) = match number {
            1 => (32, tensor::FLOAT_DATA, 1, 1),
            2 | 3 | 9 | 17..=20 | 24 => (8, tensor::INT32_DATA, 1, 1),
            4 | 5 | 10 | 16 => (16, tensor::INT32_DATA, 1, 1),
            6 => (32, tensor::INT32_DATA, 1, 1),
            7 => (64, tensor::INT64_DATA, 1, 1),
            8 => (0, tensor::STRING_DATA, 1, 1),
            11 => (64, tensor::DOUBLE_DATA, 1, 1),
            12 => (32, tensor::UINT64_DATA, 1, 1),
            13 => (64, tensor::UINT64_DATA, 1, 1),
            14 => (64, tensor::FLOAT_DATA, 2, 1),
            15 => (128, tensor::DOUBLE_DATA, 2, 1),
            21..=23 => (4, tensor::INT32_DATA, 1, 2),
            25 | 26 => (2, tensor::INT32_DATA, 1, 4),
            _ => return None,
        };
        Some(Self { bits, field, entries, elements })
    }
}

/// The elements of a tensor of 64-bit integers.
pub(crate) fn int64s(tensor: &RawTensor<'_>) -> Option<Vec<i64>> {
    if let Some(raw) = tensor.raw {
        return Some(raw.bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect());
    }
    let mut values = Vec::new();
    for field in tensor.span.fields() {
        let field = field.ok()?;
        if field.number == tensor::INT64_DATA {
            numbers(field.value, &mut |value| values.push(value.cast_signed())).ok()?;
        }
    }
    Some(values)
}
