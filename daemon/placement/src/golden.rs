//! The golden vectors of a bundle: inputs, and the outputs that a device must reproduce before it serves.
//!
//! In: a manifest's golden entries and a way to read its files. Out: a [`GoldenSet`], with the tensors in the order of
//! the model's inputs and outputs. Refuses entries that do not name every input and output, and tensors that do not
//! fit the model.

use std::{collections::BTreeMap, io};

use agentd_engine::{NpyError, Tensor, compare, read_npy};
use agentd_types::{Code, Coded, TensorSpec};
use agentd_wire::{Golden, ModelSection, Outcome};

/// Golden vectors beyond this many are not read.
const MAX_VECTORS: usize = 256;
/// One input for measuring is not made larger than this, in bytes.
const MAX_SAMPLE: usize = 256 << 20;

/// Golden vectors, ready to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoldenSet {
    /// In the order of the manifest.
    pub vectors: Vec<GoldenVector>,
}

/// One golden vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldenVector {
    /// In the order of the model's inputs.
    pub inputs: Vec<Tensor>,
    /// In the order of the model's outputs.
    pub outputs: Vec<Tensor>,
    /// Tolerance in millionths of the largest value wanted of each output.
    pub tol_ppm: u64,
}

/// Why golden vectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file cannot be read.
    #[error("cannot read golden file `{path}`")]
    Read {
        /// The file, as the manifest names it.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is not an `.npy` file that we read.
    #[error("golden file `{path}`")]
    Npy {
        /// The file, as the manifest names it.
        path: String,
        /// Why.
        source: NpyError,
    },
    /// An input or output of the model has no file.
    #[error("golden vector {golden} has nothing for `{name}`")]
    Missing {
        /// Which vector, from 0.
        golden: usize,
        /// The input or output.
        name: String,
    },
    /// A tensor is not what the model takes or gives.
    #[error("golden file `{path}` holds {got}, and `{name}` is {want}")]
    Misfit {
        /// The file, as the manifest names it.
        path: String,
        /// The input or output.
        name: String,
        /// Datatype and shape found.
        got: String,
        /// Datatype and shape wanted.
        want: String,
    },
    /// More vectors than are read.
    #[error("the bundle has {0} golden vectors, more than 256")]
    Many(usize),
}

impl Coded for GoldenError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Read { .. } => "golden.read",
            Self::Npy { .. } => "golden.npy",
            Self::Missing { .. } => "golden.missing",
            Self::Misfit { .. } => "golden.misfit",
            Self::Many(_) => "golden.many",
        })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

impl GoldenSet {
    /// Reads the golden vectors of a manifest.
    ///
    /// `file`: the bytes of a file of the bundle, by its path in the manifest; the caller bounds their size by the
    /// manifest.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the model's inputs and outputs.
    pub fn read(
        golden: &[Golden],
        model: &ModelSection,
        mut file: impl FnMut(&str) -> io::Result<Vec<u8>>,
    ) -> Result<Self, GoldenError> {
        if golden.len() > MAX_VECTORS {
            return Err(GoldenError::Many(golden.len()));
        }
        let mut vectors = Vec::with_capacity(golden.len());
        for (at, entry) in golden.iter().enumerate() {
            vectors.push(GoldenVector {
                inputs: tensors(at, &entry.inputs, &model.inputs, &mut file)?,
                outputs: tensors(at, &entry.outputs, &model.outputs, &mut file)?,
                tol_ppm: entry.tol_ppm,
            });
        }
        Ok(Self { vectors })
    }

    /// Inputs for measuring: those of the first vector, cut or repeated to `batch` samples where the first dimension is
    /// free. `None` when there is no vector, or when the inputs would take more than 256 MiB.
    pub fn sample(&self, specs: &[TensorSpec], batch: u16) -> Option<Vec<Tensor>> {
        let inputs = &self.vectors.first()?.inputs;
        inputs.iter().zip(specs).map(|(input, spec)| resize(input, spec, batch)).collect()
    }
}

impl GoldenVector {
    /// How far `got` is from what is wanted, in millionths, rounded up; or the outcome that says what is wrong.
    ///
    /// `golden`: which vector this is. `specs`: the model's outputs, for their names.
    ///
    /// # Errors
    /// The outcome, when an output is off by more than the tolerance or cannot be compared.
    pub fn judge(&self, golden: usize, specs: &[TensorSpec], got: &[Tensor]) -> Result<u64, Outcome> {
        let mut worst = 0;
        for (at, want) in self.outputs.iter().enumerate() {
            let far = got.get(at).map_or(f64::INFINITY, |got| compare(want.view(), got.view()));
            let off_ppm = whole(far);
            match off_ppm {
                Some(off) if off <= self.tol_ppm => worst = worst.max(off),
                _ => {
                    let output = specs.get(at).map_or_else(|| format!("#{at}"), |spec| spec.name.clone());
                    return Err(Outcome::WrongNumbers { golden, output, off_ppm, tol_ppm: self.tol_ppm });
                }
            }
        }
        Ok(worst)
    }
}

/// A distance as a whole number, rounded up; `None` when it is infinite, NaN or beyond all bounds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to lie between 0 and 2^53"
)]
fn whole(distance: f64) -> Option<u64> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    (0.0..=LARGEST).contains(&distance).then(|| distance.ceil() as u64)
}

fn tensors(
    golden: usize,
    paths: &BTreeMap<String, String>,
    specs: &[TensorSpec],
    file: &mut impl FnMut(&str) -> io::Result<Vec<u8>>,
) -> Result<Vec<Tensor>, GoldenError> {
    let each = specs.iter().map(|spec| {
        let path =
            paths.get(&spec.name).ok_or_else(|| GoldenError::Missing { golden, name: spec.name.clone() })?;
        let bytes = file(path).map_err(|source| GoldenError::Read { path: path.clone(), source })?;
        let tensor = read_npy(&bytes).map_err(|source| GoldenError::Npy { path: path.clone(), source })?;
        if tensor.datatype == spec.datatype && spec.accepts(&tensor.shape) {
            return Ok(tensor);
        }
        Err(GoldenError::Misfit {
            path: path.clone(),
            name: spec.name.clone(),
            got: format!("{} {:?}", tensor.datatype, tensor.shape),
            want: format!("{} {:?}", spec.datatype, spec.shape),
        })
    });
    each.collect()
}

/// The tensor with `batch` samples along its first dimension, when that is free and the samples have a fixed size.
/// `None` when that would be too large.
fn resize(input: &Tensor, spec: &TensorSpec, batch: u16) -> Option<Tensor> {
    let samples = input.shape.first().copied().unwrap_or(0);
    let free = spec.shape.first() == Some(&-1) && samples > 0 && input.datatype.size().is_some();
    if !free || samples == usize::from(batch) {
        return Some(input.clone());
    }
    let length = (input.bytes.len() / samples).checked_mul(usize::from(batch));
    let length = length.filter(|length| *length <= MAX_SAMPLE)?;
    let repeated: Vec<u8> = input.bytes.iter().copied().cycle().take(length).collect();
    let mut shape = input.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = usize::from(batch);
    }
    Some(Tensor { datatype: input.datatype, shape, bytes: repeated.into() })
}

#[cfg(test)]
mod tests {
    use agentd_engine::write_npy;
    use agentd_types::Datatype;

    use super::*;

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: shape.to_vec() }
    }

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_f32(shape.to_vec(), values).unwrap()
    }

    fn model() -> ModelSection {
        ModelSection {
            format: "onnx".into(),
            entry: "model.onnx".into(),
            inputs: vec![spec("x", &[-1, 2])],
            outputs: vec![spec("y", &[-1, 1])],
        }
    }

    fn entry(input: &str) -> Golden {
        let map = |name: &str, path: &str| BTreeMap::from([(name.to_owned(), path.to_owned())]);
        Golden { inputs: map(input, "x.npy"), outputs: map("y", "y.npy"), tol_ppm: 100 }
    }

    #[track_caller]
    fn check(entry: Golden, x: &[u8], want: Result<(), &str>) {
        let y = write_npy(&tensor(&[1, 1], &[3.0])).unwrap();
        let read = |path: &str| match path {
            "x.npy" if !x.is_empty() => Ok(x.to_vec()),
            "y.npy" => Ok(y.clone()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let got = GoldenSet::read(&[entry], &model(), read).map(|_| ()).map_err(|e| e.code().to_string());
        assert_eq!(got.as_ref().map_err(String::as_str), want.as_ref().map_err(|code| *code));
    }

    #[test]
    fn vectors_must_name_and_fit_every_input() {
        let x = write_npy(&tensor(&[1, 2], &[1.0, 2.0])).unwrap();
        check(entry("x"), &x, Ok(()));
        check(entry("z"), &x, Err("golden.missing"));
        check(entry("x"), &[], Err("golden.read"));
        check(entry("x"), &x[..20], Err("golden.npy"));
        check(entry("x"), &write_npy(&tensor(&[1, 3], &[1.0; 3])).unwrap(), Err("golden.misfit"));
    }

    #[test]
    fn a_sample_is_cut_or_repeated_to_the_batch_where_the_first_dimension_is_free() {
        let set = |shape: &[usize], values: &[f32]| GoldenSet {
            vectors: vec![GoldenVector {
                inputs: vec![tensor(shape, values)],
                outputs: Vec::new(),
                tol_ppm: 0,
            }],
        };
        let free = [spec("x", &[-1, 2])];
        let two = set(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(two.sample(&free, 1), Some(vec![tensor(&[1, 2], &[1.0, 2.0])]));
        assert_eq!(two.sample(&free, 3), Some(vec![tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0])]));
        assert_eq!(two.sample(&[spec("x", &[2, 2])], 1), Some(two.vectors[0].inputs.clone()));
        assert_eq!(set(&[0, 2], &[]).sample(&free, 4), Some(vec![tensor(&[0, 2], &[])]));
        assert_eq!(GoldenSet::default().sample(&free, 1), None);
        let wide = [spec("x", &[-1, 2_048])];
        assert_eq!(set(&[1, 2_048], &[0.0; 2_048]).sample(&wide, u16::MAX), None, "512 MiB");
    }

    #[test]
    fn outputs_are_held_against_the_tolerance_and_nan_is_never_right() {
        let vector =
            GoldenVector { inputs: Vec::new(), outputs: vec![tensor(&[2], &[1.0, 10.0])], tol_ppm: 100 };
        let specs = [spec("y", &[2])];
        let judge = |got: &[Tensor]| vector.judge(3, &specs, got);
        let wrong =
            |off_ppm| Err(Outcome::WrongNumbers { golden: 3, output: "y".into(), off_ppm, tol_ppm: 100 });
        assert_eq!(judge(&[tensor(&[2], &[1.0, 10.0])]), Ok(0));
        assert_eq!(judge(&[tensor(&[2], &[1.0005, 10.0])]), Ok(50));
        assert_eq!(judge(&[tensor(&[2], &[1.1, 10.0])]), wrong(Some(10_001)));
        assert_eq!(judge(&[tensor(&[2], &[f32::NAN, 10.0])]), wrong(None));
        assert_eq!(judge(&[tensor(&[1, 2], &[1.0, 10.0])]), wrong(None));
        assert_eq!(judge(&[]), wrong(None));
    }
}
