//! Inputs to measure with: those that a person gives, otherwise pseudo-random ones.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use agentd_engine::{Tensor, read_npy};
use agentd_types::{Datatype, TensorSpec, chain, element_count};

use super::Args;

/// No input is made larger than this, in bytes.
const MAX_INPUT: usize = 256 << 20;

/// What a person gave, by the input's name.
#[derive(Debug, Default)]
pub(super) struct Given {
    tensors: BTreeMap<String, Tensor>,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// An input that cannot be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) cause: String,
    pub(super) hint: String,
}

/// Reads what the command line names.
pub(super) fn given(args: &Args) -> Result<Given, String> {
    let mut given = Given::default();
    for named in &args.input {
        let tensor =
            file(Path::new(&named.value)).map_err(|error| format!("--input {}: {error}", named.value))?;
        given.tensors.insert(named.name.clone(), tensor);
    }
    for named in &args.shape {
        let dims: Option<Vec<usize>> = named.value.split(',').map(|dim| dim.trim().parse().ok()).collect();
        let dims = dims.ok_or_else(|| format!("--shape {}: write sizes such as 1,3,224,224", named.value))?;
        given.shapes.insert(named.name.clone(), dims);
    }
    Ok(given)
}

fn file(path: &Path) -> Result<Tensor, String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_INPUT).unwrap_or(u64::MAX);
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    read_npy(&bytes).map_err(|error| chain(&error))
}

/// A tensor for every input of the model, in its order.
pub(super) fn tensors(specs: &[TensorSpec], given: &Given, seed: u64) -> Result<Vec<Tensor>, Missing> {
    let unknown =
        given.tensors.keys().chain(given.shapes.keys()).find(|name| specs.iter().all(|s| s.name != **name));
    if let Some(name) = unknown {
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let hint = format!("its inputs are {}", names.join(", "));
        return Err(Missing { cause: format!("the model has no input `{name}`"), hint });
    }
    let mut random = Random(seed | 1);
    specs.iter().map(|spec| tensor(spec, given, &mut random)).collect()
}

fn tensor(spec: &TensorSpec, given: &Given, random: &mut Random) -> Result<Tensor, Missing> {
    let TensorSpec { name, datatype, shape } = spec;
    let wants = format!("input `{name}` is {datatype} {shape:?}");
    if let Some(tensor) = given.tensors.get(name) {
        if tensor.datatype == *datatype && spec.accepts(&tensor.shape) {
            return Ok(tensor.clone());
        }
        let cause = format!("{wants}, and its file holds {} {:?}", tensor.datatype, tensor.shape);
        return Err(Missing {
            cause,
            hint: "save the array with the datatype and shape of the input".to_owned(),
        });
    }
    let hint = || {
        let dims: Vec<_> =
            shape.iter().map(|dim| if *dim < 0 { "1".to_owned() } else { dim.to_string() }).collect();
        format!("--shape {name}={} (with sizes of your own), or --input {name}=FILE.npy", dims.join(","))
    };
    let dims = match given.shapes.get(name) {
        Some(dims) if spec.accepts(dims) => dims.clone(),
        Some(dims) => {
            return Err(Missing { cause: format!("{wants}, and --shape gives {dims:?}"), hint: hint() });
        }
        None => default_shape(shape).ok_or_else(|| Missing {
            cause: format!("{wants}: sizes are needed where it says -1"),
            hint: hint(),
        })?,
    };
    let count = element_count(&dims).ok().filter(|count| *count <= MAX_INPUT / datatype.size().unwrap_or(4));
    let count = count.ok_or_else(|| Missing {
        cause: format!("input `{name}` of shape {dims:?} is larger than 256 MiB"),
        hint: hint(),
    })?;
    let bytes: Vec<u8> = (0..count).flat_map(|_| element(*datatype, random)).collect();
    Tensor::new(*datatype, dims, bytes)
        .map_err(|error| Missing { cause: format!("{wants}: {}", chain(&error)), hint: hint() })
}

/// A free first dimension is one sample; other free dimensions have no size that is right for every model.
fn default_shape(shape: &[i64]) -> Option<Vec<usize>> {
    let dims = shape.iter().enumerate().map(|(at, dim)| match (at, *dim) {
        (0, ..0) => Some(1),
        (_, dim) => usize::try_from(dim).ok(),
    });
    dims.collect()
}

/// One element as little-endian bytes: a float between 0 and 1, a whole number 0 or 1, an empty text.
fn element(datatype: Datatype, random: &mut Random) -> Vec<u8> {
    let bits = random.next();
    let bit = u8::from(bits & 1 == 1);
    // 16 random bits: exact in every float that is wide enough for them.
    let unit = f32::from((bits >> 48) as u16) / 65_536.0;
    match datatype {
        Datatype::Fp32 => unit.to_le_bytes().to_vec(),
        Datatype::Fp64 => f64::from(unit).to_le_bytes().to_vec(),
        // 1.0 as a half is 0x3c00, and as a bfloat16 0x3f80; 0.0 is 0.
        Datatype::Fp16 => (0x3c00 * u16::from(bit)).to_le_bytes().to_vec(),
        Datatype::Bf16 => (0x3f80 * u16::from(bit)).to_le_bytes().to_vec(),
        Datatype::Bytes => vec![0; 4],
        Datatype::Bool
        | Datatype::Uint8
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32
        | Datatype::Int64 => {
            let mut bytes = vec![0; datatype.size().unwrap_or(1)];
            if let Some(low) = bytes.first_mut() {
                *low = bit;
            }
            bytes
        }
    }
}

/// Pseudo-random numbers; never 0.
///
/// Source: Marsaglia, "Xorshift RNGs" (2003), the triple (13, 7, 17).
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
    }

    #[test]
    fn every_datatype_can_be_made_and_the_same_seed_makes_the_same() {
        for datatype in Datatype::ALL {
            let specs = [spec("x", datatype, &[-1, 3])];
            let made = tensors(&specs, &Given::default(), 7).unwrap();
            assert_eq!(made[0].shape, [1, 3], "{datatype}");
            assert_eq!(tensors(&specs, &Given::default(), 7).unwrap(), made);
        }
        let floats = tensors(&[spec("x", Datatype::Fp32, &[1_000])], &Given::default(), 1).unwrap();
        let values = floats[0].view().to_f64();
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        assert!((values.iter().sum::<f64>() / 1_000.0 - 0.5).abs() < 0.05);
    }

    #[track_caller]
    fn check(spec: TensorSpec, given: Given, cause: &str, hint: &str) {
        let missing = tensors(&[spec], &given, 1).unwrap_err();
        assert!(missing.cause.contains(cause), "{missing:?}");
        assert!(missing.hint.contains(hint), "{missing:?}");
    }

    #[test]
    fn what_cannot_be_made_is_told_with_the_flag_that_helps() {
        let shaped = |name: &str, dims: &[usize]| Given {
            shapes: BTreeMap::from([(name.to_owned(), dims.to_vec())]),
            ..Given::default()
        };
        let free = || spec("x", Datatype::Fp32, &[-1, 3, -1]);
        check(free(), Given::default(), "sizes are needed", "--shape x=1,3,1");
        check(free(), shaped("x", &[1, 4, 1]), "--shape gives [1, 4, 1]", "--shape x=1,3,1");
        check(free(), shaped("y", &[1]), "no input `y`", "its inputs are x");
        check(free(), shaped("x", &[1, 3, 1 << 40]), "larger than 256 MiB", "--shape");
        let mut given = Given::default();
        given.tensors.insert("x".into(), Tensor::from_f32(vec![2], &[1.0, 2.0]).unwrap());
        check(free(), given, "its file holds FP32 [2]", "save the array");
    }
}
