//! Tensors as bytes with a datatype and a shape.

use agentd_types::{Datatype, ShapeError, element_count};
use bytes::Bytes;
use half::{bf16, f16};

/// A tensor that owns its bytes: row-major, little-endian. `BYTES` elements are each preceded by their length as
/// a little-endian `u32`, as in the Open Inference Protocol's binary form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The datatype of the elements.
    pub datatype: Datatype,
    /// The concrete dimensions.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Bytes,
}

/// A tensor whose bytes lie elsewhere, for example in shared memory; laid out as in [`Tensor`].
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The datatype of the elements.
    pub datatype: Datatype,
    /// The concrete dimensions.
    pub shape: &'a [usize],
    /// The elements.
    pub bytes: &'a [u8],
}

/// Bytes that do not make a tensor of the shape and datatype claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape's product is out of bounds.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The byte count does not fit the shape.
    #[error("{got} bytes where shape and datatype need {want}")]
    Length {
        /// Bytes that shape and datatype ask for.
        want: usize,
        /// Bytes found.
        got: usize,
    },
    /// A `BYTES` tensor whose lengths do not add up.
    #[error("the element lengths of a BYTES tensor do not add up")]
    Elements,
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// When the bytes do not fit shape and datatype.
    pub fn new(datatype: Datatype, shape: Vec<usize>, bytes: impl Into<Bytes>) -> Result<Self, TensorError> {
        let tensor = Self { datatype, shape, bytes: bytes.into() };
        tensor.view().check()?;
        Ok(tensor)
    }

    /// A tensor of 32-bit floats.
    ///
    /// # Errors
    /// When the number of values does not fit the shape.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        Self::new(Datatype::Fp32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// The same tensor, borrowed.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { datatype: self.datatype, shape: &self.shape, bytes: &self.bytes }
    }
}

impl TensorView<'_> {
    /// Holds the bytes against shape and datatype.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn check(&self) -> Result<(), TensorError> {
        let count = element_count(self.shape)?;
        let Some(size) = self.datatype.size() else { return check_elements(self.bytes, count) };
        let want = count.checked_mul(size).ok_or(ShapeError)?;
        if self.bytes.len() == want {
            Ok(())
        } else {
            Err(TensorError::Length { want, got: self.bytes.len() })
        }
    }

    /// An owned copy.
    pub fn to_tensor(&self) -> Tensor {
        Tensor {
            datatype: self.datatype,
            shape: self.shape.to_vec(),
            bytes: Bytes::copy_from_slice(self.bytes),
        }
    }

    /// The first element that is NaN or infinite.
    ///
    /// Source: IEEE 754, section 3.4: all bits of the exponent are set in both, and in no finite number.
    pub fn first_not_finite(&self) -> Option<usize> {
        macro_rules! find {
            ($n:literal, $bits:ty, $exponent:literal) => {
                self.bytes
                    .as_chunks::<$n>()
                    .0
                    .iter()
                    .position(|b| <$bits>::from_le_bytes(*b) & $exponent == $exponent)
            };
        }
        match self.datatype {
            Datatype::Fp16 => find!(2, u16, 0x7c00),
            Datatype::Bf16 => find!(2, u16, 0x7f80),
            Datatype::Fp32 => find!(4, u32, 0x7f80_0000),
            Datatype::Fp64 => find!(8, u64, 0x7ff0_0000_0000_0000),
            Datatype::Bool
            | Datatype::Uint8
            | Datatype::Uint16
            | Datatype::Uint32
            | Datatype::Uint64
            | Datatype::Int8
            | Datatype::Int16
            | Datatype::Int32
            | Datatype::Int64
            | Datatype::Bytes => None,
        }
    }

    /// The elements as `f64`, in order; empty for `BYTES`. Integers above 2^53 lose their last bits.
    pub fn to_f64(&self) -> Vec<f64> {
        macro_rules! each {
            ($n:literal, $type:ty) => {
                self.bytes.as_chunks::<$n>().0.iter().map(|b| <$type>::from_le_bytes(*b) as f64).collect()
            };
        }
        #[expect(clippy::cast_lossless, clippy::cast_precision_loss, reason = "documented at the function")]
        match self.datatype {
            Datatype::Bool | Datatype::Uint8 => each!(1, u8),
            Datatype::Int8 => each!(1, i8),
            Datatype::Uint16 => each!(2, u16),
            Datatype::Int16 => each!(2, i16),
            Datatype::Fp16 => {
                self.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect()
            }
            Datatype::Bf16 => {
                self.bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect()
            }
            Datatype::Uint32 => each!(4, u32),
            Datatype::Int32 => each!(4, i32),
            Datatype::Fp32 => each!(4, f32),
            Datatype::Uint64 => each!(8, u64),
            Datatype::Int64 => each!(8, i64),
            Datatype::Fp64 => each!(8, f64),
            Datatype::Bytes => Vec::new(),
        }
    }
}

fn check_elements(mut bytes: &[u8], count: usize) -> Result<(), TensorError> {
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(TensorError::Elements)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| TensorError::Elements)?;
        bytes = rest.get(length..).ok_or(TensorError::Elements)?;
    }
    if bytes.is_empty() { Ok(()) } else { Err(TensorError::Elements) }
}

/// How far `got` is from `want`: the largest difference divided by the largest magnitude in `want` (at least
/// 1e-6), in millionths. NaN matches NaN only; tensors of another datatype or shape, and `BYTES` or integers that
/// differ at all, are infinitely far.
pub fn compare(want: TensorView<'_>, got: TensorView<'_>) -> f64 {
    if want.datatype != got.datatype || want.shape != got.shape || want.bytes.len() != got.bytes.len() {
        return f64::INFINITY;
    }
    if want.bytes == got.bytes {
        return 0.0;
    }
    if !matches!(want.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64) {
        return f64::INFINITY;
    }
    let (want, got) = (want.to_f64(), got.to_f64());
    let scale = want.iter().filter(|v| v.is_finite()).fold(1e-6_f64, |max, v| max.max(v.abs()));
    let mut worst = 0.0_f64;
    for (w, g) in want.iter().zip(&got) {
        #[expect(clippy::float_cmp, reason = "infinities must match exactly")]
        let apart = if w.is_nan() && g.is_nan() || w == g { 0.0 } else { (w - g).abs() };
        if apart.is_nan() {
            return f64::INFINITY;
        }
        worst = worst.max(apart);
    }
    worst / scale * 1e6
}

/// The first element that is NaN or infinite: which of the tensors, and which of its elements.
///
/// Tensors of integers, booleans and `BYTES` have none.
pub fn first_not_finite<'a>(tensors: impl IntoIterator<Item = TensorView<'a>>) -> Option<(usize, usize)> {
    tensors.into_iter().enumerate().find_map(|(index, tensor)| Some((index, tensor.first_not_finite()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_fit_the_shape() {
        assert!(Tensor::from_f32(vec![2, 2], &[1.0; 4]).is_ok());
        let got = Tensor::from_f32(vec![2, 2], &[1.0; 3]);
        assert_eq!(got, Err(TensorError::Length { want: 16, got: 12 }));
        assert!(Tensor::new(Datatype::Bytes, vec![2], b"\x01\0\0\0a\0\0\0\0".to_vec()).is_ok());
        for bad in [&b"\x01\0\0\0a"[..], b"\x09\0\0\0a\0\0\0\0", b"\0\0\0\0\0\0\0\0x", b""] {
            assert_eq!(Tensor::new(Datatype::Bytes, vec![2], bad.to_vec()), Err(TensorError::Elements));
        }
    }

    #[test]
    fn distance_is_relative_to_the_largest_value_wanted() {
        let tensor = |values: &[f32]| Tensor::from_f32(vec![values.len()], values).unwrap();
        let far = |want: &[f32], got: &[f32]| compare(tensor(want).view(), tensor(got).view());
        assert!(far(&[1.0, 10.0], &[1.0, 10.0]).abs() < 1e-9);
        assert!((far(&[1.0, 10.0], &[1.001, 10.0]) - 100.0).abs() < 1.0);
        assert!(far(&[f32::NAN], &[1.0]).is_infinite());
        assert!(far(&[1.0], &[f32::NAN]).is_infinite());
        assert!(far(&[f32::NAN], &[f32::NAN]).abs() < 1e-9);
        assert!(far(&[f32::INFINITY], &[1.0]).is_infinite());
        assert!(far(&[1.0], &[1.0, 2.0]).is_infinite());
    }
    #[test]
    fn nan_and_infinity_are_found_in_every_float_type() {
        let f32s = |values: &[f32]| Tensor::from_f32(vec![values.len()], values).unwrap();
        let first = |tensors: &[Tensor]| first_not_finite(tensors.iter().map(Tensor::view));
        let fine = f32s(&[0.0, f32::MAX, f32::MIN_POSITIVE, -1.0]);
        assert_eq!(first(std::slice::from_ref(&fine)), None);
        assert_eq!(first(&[fine.clone(), f32s(&[1.0, f32::NAN])]), Some((1, 1)));
        assert_eq!(first(&[f32s(&[f32::NEG_INFINITY]), fine]), Some((0, 0)));
        let bits = |datatype, bytes: &[u8]| Tensor::new(datatype, vec![1], bytes.to_vec()).unwrap();
        assert_eq!(first(&[bits(Datatype::Fp16, &f16::NAN.to_le_bytes())]), Some((0, 0)));
        assert_eq!(first(&[bits(Datatype::Fp16, &f16::MAX.to_le_bytes())]), None);
        assert_eq!(first(&[bits(Datatype::Bf16, &bf16::INFINITY.to_le_bytes())]), Some((0, 0)));
        assert_eq!(first(&[bits(Datatype::Fp64, &f64::NAN.to_le_bytes())]), Some((0, 0)));
        assert_eq!(first(&[bits(Datatype::Uint32, &[0xff; 4])]), None);
    }
}
