//! NumPy's `.npy` files, the form of golden vectors.
//!
//! Reads versions 1 to 3, row-major, little-endian numbers and booleans; writes version 1.
//!
//! Source: numpy.lib.format, "The NPY format".

use agentd_types::Datatype;

use crate::{Tensor, TensorError};

const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER: usize = 64 << 10;
const MAX_RANK: usize = 32;

/// Why bytes are not an `.npy` file that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// No `.npy` header, or one that is cut off or too long.
    #[error("not an .npy file, or its header is damaged")]
    Header,
    /// A type of element that tensors here do not have.
    #[error("elements of type `{0}` are not supported: little-endian numbers and booleans are")]
    Type(String),
    /// Column-major order.
    #[error("column-major order is not supported: save with numpy.ascontiguousarray")]
    Order,
    /// The data does not fit the header.
    #[error("the data does not fit the header")]
    Data(#[from] TensorError),
}

/// Reads the bytes of an `.npy` file.
///
/// # Errors
/// When the file is damaged or of a kind that is not read here.
pub fn read_npy(file: &[u8]) -> Result<Tensor, NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::Header)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(NpyError::Header)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest
            .split_first_chunk::<4>()
            .and_then(|(n, rest)| Some((usize::try_from(u32::from_le_bytes(*n)).ok()?, rest))),
        _ => None,
    }
    .filter(|(length, _)| *length <= MAX_HEADER)
    .ok_or(NpyError::Header)?;
    let (header, data) = rest.split_at_checked(length).ok_or(NpyError::Header)?;
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header)?;
    let descr = field(header, "descr")?;
    let descr = descr.trim_start_matches(['\'', '"']).split(['\'', '"']).next().unwrap_or_default();
    if field(header, "fortran_order")?.starts_with("True") {
        return Err(NpyError::Order);
    }
    let shape = field(header, "shape")?
        .strip_prefix('(')
        .and_then(|s| s.split(')').next())
        .ok_or(NpyError::Header)?;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().map_err(|_| NpyError::Header))
        .collect::<Result<_, _>>()?;
    if shape.len() > MAX_RANK {
        return Err(NpyError::Header);
    }
    Ok(Tensor::new(datatype(descr)?, shape, data.to_vec())?)
}

/// The bytes of an `.npy` file that holds `tensor`.
///
/// # Errors
/// For `BYTES` and `BF16`, which NumPy has no type for.
pub fn write_npy(tensor: &Tensor) -> Result<Vec<u8>, NpyError> {
    let descr = descr(tensor.datatype).ok_or_else(|| NpyError::Type(tensor.datatype.to_string()))?;
    let dims: String = tensor.shape.iter().map(|dim| format!("{dim},")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| NpyError::Header)?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &tensor.bytes].concat())
}

fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, NpyError> {
    ['\'', '"']
        .iter()
        .find_map(|quote| header.split_once(&format!("{quote}{name}{quote}")))
        .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
        .map(str::trim_start)
        .ok_or(NpyError::Header)
}

fn datatype(descr: &str) -> Result<Datatype, NpyError> {
    Ok(match descr {
        "|b1" | "?" => Datatype::Bool,
        "|u1" => Datatype::Uint8,
        "|i1" => Datatype::Int8,
        "<u2" => Datatype::Uint16,
        "<i2" => Datatype::Int16,
        "<u4" => Datatype::Uint32,
        "<i4" => Datatype::Int32,
        "<u8" => Datatype::Uint64,
        "<i8" => Datatype::Int64,
        "<f2" => Datatype::Fp16,
        "<f4" => Datatype::Fp32,
        "<f8" => Datatype::Fp64,
        other => return Err(NpyError::Type(other.chars().take(20).collect())),
    })
}

const fn descr(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "|b1",
        Datatype::Uint8 => "|u1",
        Datatype::Int8 => "|i1",
        Datatype::Uint16 => "<u2",
        Datatype::Int16 => "<i2",
        Datatype::Uint32 => "<u4",
        Datatype::Int32 => "<i4",
        Datatype::Uint64 => "<u8",
        Datatype::Int64 => "<i8",
        Datatype::Fp16 => "<f2",
        Datatype::Fp32 => "<f4",
        Datatype::Fp64 => "<f8",
        Datatype::Bf16 | Datatype::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_reads_back_from_its_file() {
        for shape in [vec![], vec![4], vec![2, 2], vec![0, 7]] {
            let count = shape.iter().product();
            let tensor = Tensor::from_f32(shape, &vec![1.5; count]).unwrap();
            let file = write_npy(&tensor).unwrap();
            assert_eq!((file.len() - tensor.bytes.len()) % 64, 0);
            assert_eq!(read_npy(&file), Ok(tensor));
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = write_npy(&Tensor::from_f32(vec![2], &[1.0, 2.0]).unwrap()).unwrap();
        for cut in 0..file.len() {
            assert!(read_npy(&file[..cut]).is_err(), "cut at {cut}");
        }
        let header = |text: &str| {
            let length = u16::try_from(text.len()).unwrap().to_le_bytes();
            [MAGIC, &[1, 0], &length, text.as_bytes()].concat()
        };
        for (text, want) in [
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (), }", NpyError::Type(">f4".into())),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (), }", NpyError::Order),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", NpyError::Header),
            ("{'descr': '<f4', 'fortran_order': False, }", NpyError::Header),
        ] {
            assert_eq!(read_npy(&header(text)), Err(want), "{text}");
        }
        let huge = header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }");
        assert!(matches!(read_npy(&huge), Err(NpyError::Data(TensorError::Shape(_)))));
    }
}
