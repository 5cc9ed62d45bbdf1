//! Our tensors to tract's and back.

use agentd_engine::{Tensor, TensorView};
use agentd_types::{Datatype, TensorSpec};
use bytes::Bytes;
use tract_onnx::prelude::{self as tract, Arc, DatumType, IntoTensor as _, TValue, tract_ndarray::ArrayD};

use crate::words;

/// tract's word for a datatype; `None` for BF16, which it lacks.
pub(crate) const fn datum_type(datatype: Datatype) -> Option<DatumType> {
    Some(match datatype {
        Datatype::Bool => DatumType::Bool,
        Datatype::Uint8 => DatumType::U8,
        Datatype::Uint16 => DatumType::U16,
        Datatype::Uint32 => DatumType::U32,
        Datatype::Uint64 => DatumType::U64,
        Datatype::Int8 => DatumType::I8,
        Datatype::Int16 => DatumType::I16,
        Datatype::Int32 => DatumType::I32,
        Datatype::Int64 => DatumType::I64,
        Datatype::Fp16 => DatumType::F16,
        Datatype::Fp32 => DatumType::F32,
        Datatype::Fp64 => DatumType::F64,
        Datatype::Bytes => DatumType::String,
        Datatype::Bf16 => return None,
    })
}

/// Our word for one of tract's; its symbolic integers are 64-bit ones once they have a value.
pub(crate) fn datatype(datum_type: DatumType) -> Option<Datatype> {
    if datum_type == DatumType::TDim {
        return Some(Datatype::Int64);
    }
    let plain = datum_type.unquantized();
    Datatype::ALL.into_iter().find(|datatype| self::datum_type(*datatype) == Some(plain))
}

/// A tensor for tract; `view` fits its shape. Says why when there is none.
pub(crate) fn to_tract(view: &TensorView<'_>, datum_type: DatumType) -> Result<TValue, String> {
    if datum_type == DatumType::String {
        let shape = view.shape.to_vec();
        let texts = ArrayD::from_shape_vec(shape, texts(view.bytes)?).map_err(|error| error.to_string())?;
        return Ok(texts.into_tensor().into());
    }
    let mut tensor = tract::Tensor::zero_dt(datum_type, view.shape).map_err(|error| words(&error))?;
    let target = tensor.as_bytes_mut();
    if target.len() != view.bytes.len() {
        return Err("its bytes do not fit its shape".into());
    }
    if datum_type == DatumType::Bool {
        // Any other byte than 0 and 1 is no `bool`.
        target.iter_mut().zip(view.bytes).for_each(|(to, from)| *to = u8::from(*from != 0));
    } else {
        target.copy_from_slice(view.bytes);
    }
    Ok(tensor.into())
}

/// The texts of a `BYTES` tensor.
fn texts(mut bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, rest) = rest.split_at_checked(length).ok_or("its lengths do not add up")?;
        texts.push(std::str::from_utf8(text).map_err(|_| "tract takes texts in UTF-8 only")?.to_owned());
        bytes = rest;
    }
    Ok(texts)
}

/// A tensor of ours, which must be what `spec` says. The bytes are tract's own, not a copy, where they can be.
pub(crate) fn from_tract(value: TValue, spec: &TensorSpec) -> Result<Tensor, String> {
    let is_count = value.datum_type() == DatumType::TDim;
    let value = if is_count {
        value.cast_to::<i64>().map_err(|error| words(&error))?.into_owned().into()
    } else {
        value
    };
    let datatype = datatype(value.datum_type()).ok_or("it is of a datatype that we lack")?;
    let shape = value.shape().to_vec();
    if datatype != spec.datatype || !spec.accepts(&shape) {
        let (want, want_shape) = (spec.datatype, &spec.shape);
        return Err(format!("it is {datatype} of shape {shape:?}, not {want} of shape {want_shape:?}"));
    }
    let bytes = if datatype == Datatype::Bytes {
        let plain = value.try_as_plain_ram().map_err(|error| words(&error))?;
        let texts = plain.as_slice::<String>().map_err(|error| words(&error))?;
        let mut bytes = Vec::new();
        for text in texts {
            bytes.extend(u32::try_from(text.len()).map_err(|_| "a text is too long")?.to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Bytes::from(bytes)
    } else {
        value.try_as_plain_ram().map_err(|error| words(&error))?;
        Bytes::from_owner(Plain(value.as_arc_tensor().cloned().ok_or("it has no bytes")?))
    };
    Tensor::new(datatype, shape, bytes).map_err(|error| error.to_string())
}

/// A tensor of plain numbers, row-major.
struct Plain(Arc<tract::Tensor>);

impl AsRef<[u8]> for Plain {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tensor: &Tensor) {
        let spec =
            TensorSpec { name: "x".into(), datatype: tensor.datatype, shape: vec![-1; tensor.shape.len()] };
        let there = to_tract(&tensor.view(), datum_type(tensor.datatype).unwrap()).unwrap();
        assert_eq!(&from_tract(there, &spec).unwrap(), tensor);
    }

    #[test]
    fn tensors_of_every_datatype_come_back_as_they_went() {
        for datatype in Datatype::ALL {
            let Some(size) = datatype.size() else { continue };
            if datum_type(datatype).is_none() {
                assert_eq!(datatype, Datatype::Bf16);
                continue;
            }
            for shape in [vec![], vec![3], vec![2, 0], vec![2, 2]] {
                let count: usize = shape.iter().product();
                check(&Tensor::new(datatype, shape, vec![1; count * size]).unwrap());
            }
        }
        check(&Tensor::new(Datatype::Bytes, vec![2], b"\x02\0\0\0\xc3\xa4\0\0\0\0".to_vec()).unwrap());
    }

    #[test]
    fn a_boolean_is_never_another_byte_and_a_text_is_utf8() {
        let bools = Tensor::new(Datatype::Bool, vec![3], vec![0, 1, 7]).unwrap();
        let there = to_tract(&bools.view(), DatumType::Bool).unwrap();
        assert_eq!(there.as_bytes(), [0, 1, 1]);
        let bad = Tensor::new(Datatype::Bytes, vec![1], b"\x01\0\0\0\xff".to_vec()).unwrap();
        assert!(to_tract(&bad.view(), DatumType::String).is_err());
    }
}
