//! Datatypes and shapes of tensors, in the words of the Open Inference Protocol.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// No tensor has more elements than this, a free dimension counted as 1.
pub const MAX_ELEMENTS: u64 = 1 << 32;

/// The datatype of a tensor's elements, named as in the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the protocol's own names say it all")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    /// Every datatype.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The protocol's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes of one element; `None` for `BYTES`, whose elements carry their own length.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no datatype.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a datatype of the Open Inference Protocol")]
pub struct DatatypeError(String);

impl FromStr for Datatype {
    type Err = DatatypeError;

    fn from_str(text: &str) -> Result<Self, DatatypeError> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.as_str() == text)
            .ok_or_else(|| DatatypeError(text.chars().take(40).collect()))
    }
}

/// A shape whose product of dimensions is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shape has more than 2^32 elements")]
pub struct ShapeError;

/// The number of elements of a concrete shape; 1 for rank 0.
///
/// # Errors
/// When the product overflows or exceeds [`MAX_ELEMENTS`].
pub fn element_count(shape: &[usize]) -> Result<usize, ShapeError> {
    let count = shape.iter().try_fold(1_u64, |product, dim| {
        product.checked_mul(u64::try_from(*dim).ok()?).filter(|count| *count <= MAX_ELEMENTS)
    });
    count.and_then(|count| usize::try_from(count).ok()).ok_or(ShapeError)
}

/// A named input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// The tensor's name in the model.
    pub name: String,
    /// The datatype of its elements.
    pub datatype: Datatype,
    /// Its dimensions; -1 is free.
    pub shape: Vec<i64>,
}

impl TensorSpec {
    /// Whether a concrete `shape` fits: same rank, equal dimensions wherever ours is not free.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self
                .shape
                .iter()
                .zip(shape)
                .all(|(want, got)| *want < 0 || u64::try_from(*want) == Ok(*got as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_overflows_is_refused() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[2, 0, 3]), Ok(0));
        assert_eq!(element_count(&[1 << 31, 2]), Ok(1 << 32));
        assert_eq!(element_count(&[1 << 31, 3]), Err(ShapeError));
        assert_eq!(element_count(&[usize::MAX, usize::MAX]), Err(ShapeError));
    }

    #[test]
    fn a_free_dimension_accepts_any_size() {
        let spec = TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: vec![-1, 3] };
        assert!(spec.accepts(&[7, 3]));
        assert!(!spec.accepts(&[7, 4]));
        assert!(!spec.accepts(&[7]));
    }

    #[test]
    fn every_datatype_reads_back() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.as_str().parse(), Ok(datatype));
        }
    }
}
