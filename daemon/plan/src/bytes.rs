//! Arrays as bytes, and back: row-major and little-endian, as tensors lie in memory and in requests.

use agentd_types::Datatype;
use half::{bf16, f16};

use crate::{Array, Data, Fact, PlanError};

impl Array {
    /// The array of a fact from its bytes.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] for text, which has no fixed size; [`PlanError::Shape`] when the bytes do not fit.
    pub fn from_bytes(fact: &Fact, bytes: &[u8]) -> Result<Self, PlanError> {
        macro_rules! items {
            ($type:ty) => {
                Self::new(
                    fact.shape.clone(),
                    bytes
                        .as_chunks::<{ size_of::<$type>() }>()
                        .0
                        .iter()
                        .map(|b| <$type>::from_le_bytes(*b))
                        .collect(),
                )?
            };
        }
        Ok(match fact.datatype {
            Datatype::Bool => {
                Self::new(fact.shape.clone(), bytes.iter().map(|b| *b != 0).collect::<Vec<bool>>())?
            }
            Datatype::Uint8 => items!(u8),
            Datatype::Uint16 => items!(u16),
            Datatype::Uint32 => items!(u32),
            Datatype::Uint64 => items!(u64),
            Datatype::Int8 => items!(i8),
            Datatype::Int16 => items!(i16),
            Datatype::Int32 => items!(i32),
            Datatype::Int64 => items!(i64),
            Datatype::Fp16 => items!(f16),
            Datatype::Bf16 => items!(bf16),
            Datatype::Fp32 => items!(f32),
            Datatype::Fp64 => items!(f64),
            Datatype::Bytes => return Err(PlanError::datatype("text has no fixed size")),
        })
    }

    /// Writes the elements as bytes; what does not fit into `to` is left out, and so is text.
    pub fn write_bytes(&self, to: &mut [u8]) {
        macro_rules! items {
            ($items:expr) => {
                for (item, place) in $items
                    .iter()
                    .zip(to.chunks_exact_mut(size_of_val($items.first().unwrap_or(&Default::default()))))
                {
                    place.copy_from_slice(&item.to_le_bytes());
                }
            };
        }
        match self.data() {
            Data::Bool(items) => {
                for (item, place) in items.iter().zip(to) {
                    *place = u8::from(*item);
                }
            }
            Data::U8(items) => items!(items),
            Data::U16(items) => items!(items),
            Data::U32(items) => items!(items),
            Data::U64(items) => items!(items),
            Data::I8(items) => items!(items),
            Data::I16(items) => items!(items),
            Data::I32(items) => items!(items),
            Data::I64(items) => items!(items),
            Data::F16(items) => items!(items),
            Data::Bf16(items) => items!(items),
            Data::F32(items) => items!(items),
            Data::F64(items) => items!(items),
            Data::Text(_) => {}
        }
    }
}
