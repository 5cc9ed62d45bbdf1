//! Whether tensors hold only finite numbers.

use agentd_engine::TensorView;
use agentd_types::Datatype;

/// Whether no element is NaN or infinite; integers, booleans and `BYTES` always are finite.
///
/// A float is not finite exactly if all bits of its exponent are set (IEEE 754-2019, section 3.4).
pub(crate) fn is_finite(tensor: TensorView<'_>) -> bool {
    let bytes = tensor.bytes;
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are not floats")]
    match tensor.datatype {
        Datatype::Fp16 => none16(bytes, 0x7c00),
        Datatype::Bf16 => none16(bytes, 0x7f80),
        Datatype::Fp32 => {
            const EXPONENT: u32 = 0x7f80_0000;
            // No early exit: the loop is then vectorised.
            let odd = |bad, b: &[u8; 4]| bad | (u32::from_le_bytes(*b) & EXPONENT == EXPONENT);
            !bytes.as_chunks::<4>().0.iter().fold(false, odd)
        }
        Datatype::Fp64 => {
            const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
            let odd = |bad, b: &[u8; 8]| bad | (u64::from_le_bytes(*b) & EXPONENT == EXPONENT);
            !bytes.as_chunks::<8>().0.iter().fold(false, odd)
        }
        _ => true,
    }
}

fn none16(bytes: &[u8], exponent: u16) -> bool {
    !bytes
        .as_chunks::<2>()
        .0
        .iter()
        .fold(false, |bad, b| bad | (u16::from_le_bytes(*b) & exponent == exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(datatype: Datatype, element: &[u8], want: bool) {
        let ordinary = vec![0; element.len()];
        let bytes = [&ordinary, element, &ordinary].concat();
        assert_eq!(is_finite(TensorView { datatype, shape: &[3], bytes: &bytes }), want);
    }

    #[test]
    fn only_nan_and_infinity_are_not_finite() {
        for (value, want) in [(f32::NAN, false), (f32::NEG_INFINITY, false), (f32::MAX, true), (-0.0, true)] {
            check(Datatype::Fp32, &value.to_le_bytes(), want);
            check(Datatype::Fp64, &f64::from(value).to_le_bytes(), want);
            check(
                Datatype::Bf16,
                &half::bf16::from_f32(value.clamp(-1e38, 1e38)).to_le_bytes(),
                !value.is_nan(),
            );
        }
        check(Datatype::Bf16, &half::bf16::INFINITY.to_le_bytes(), false);
        check(Datatype::Fp16, &half::f16::INFINITY.to_le_bytes(), false);
        check(Datatype::Fp16, &half::f16::NAN.to_le_bytes(), false);
        check(Datatype::Fp16, &half::f16::MAX.to_le_bytes(), true);
        check(Datatype::Int32, &[0xff; 4], true);
    }
}
