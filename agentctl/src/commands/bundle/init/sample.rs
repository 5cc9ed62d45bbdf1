//! Inputs for golden vectors: arrays, pictures and sounds that a person gives, or pseudo-random numbers.
//!
//! How a file becomes a tensor is told in the command's help and kept simple, so that it can be repeated elsewhere.

use std::{collections::BTreeMap, path::Path};

use agentd_engine::{Tensor, read_npy};
use agentd_types::{Datatype, TensorSpec, chain, element_count};
use image::{DynamicImage, imageops::FilterType};

use super::Args;
use crate::bundle_file::read_bounded;

/// No file of inputs and no input is larger.
const MAX_INPUT: usize = 256 << 20;

/// What cannot be used, and what helps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) cause: String,
    pub(super) hint: String,
}

impl Problem {
    fn new(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { cause: cause.into(), hint: hint.into() }
    }
}

/// One tensor for each input of the model, for each golden vector.
pub(super) fn samples(specs: &[TensorSpec], args: &Args) -> Result<Vec<Vec<Tensor>>, Problem> {
    match args.random_golden {
        Some(count) => random(specs, args, count),
        None => args.golden.iter().map(|given| sample(specs, given)).collect(),
    }
}

/// `given`: a file, or `NAME=FILE,..`.
fn sample(specs: &[TensorSpec], given: &str) -> Result<Vec<Tensor>, Problem> {
    let names = || specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
    let files: BTreeMap<&str, &str> = match specs {
        [only] if Path::new(given).exists() || !given.contains('=') => {
            BTreeMap::from([(only.name.as_str(), given)])
        }
        _ => {
            given.split(',').map(|pair| pair.rsplit_once('=').ok_or(pair)).collect::<Result<_, _>>().map_err(
                |pair| {
                    let cause =
                        format!("`{pair}` does not say which input it is for; the inputs are {}", names());
                    Problem::new(cause, "--golden NAME=FILE,NAME=FILE")
                },
            )?
        }
    };
    if let Some(name) = files.keys().find(|name| specs.iter().all(|spec| spec.name != **name)) {
        return Err(Problem::new(
            format!("the model has no input `{name}`"),
            format!("its inputs are {}", names()),
        ));
    }
    let tensor = |spec: &TensorSpec| {
        let path = files.get(spec.name.as_str()).ok_or_else(|| {
            Problem::new(
                format!("`{given}` gives nothing for the input `{}`", spec.name),
                format!("its inputs are {}", names()),
            )
        })?;
        load(spec, Path::new(path))
    };
    specs.iter().map(tensor).collect()
}

fn load(spec: &TensorSpec, path: &Path) -> Result<Tensor, Problem> {
    let shown = path.display();
    let bad = |cause: String| {
        Problem::new(format!("`{shown}` {cause}"), "agentctl bundle init --help tells what files can be")
    };
    let bytes = read_bounded(path, MAX_INPUT as u64)
        .map_err(|error| bad(format!("cannot be read: {}", chain(&error))))?;
    let kind = path.extension().map(|kind| kind.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let tensor = match kind.as_str() {
        "npy" => array(spec, &bytes),
        "png" => image::load_from_memory_with_format(&bytes, image::ImageFormat::Png)
            .map_err(|error| format!("is no picture: {error}"))
            .and_then(|picture| picture_tensor(spec, &picture)),
        "wav" => sound(&bytes).and_then(|samples| sound_tensor(spec, &samples)),
        _ => Err("is neither .npy nor .png nor .wav".to_owned()),
    };
    tensor.map_err(bad)
}

fn wants(spec: &TensorSpec) -> String {
    format!("`{}` is {} {:?}", spec.name, spec.datatype, spec.shape)
}

/// An array as it is, or as one sample of a batch.
fn array(spec: &TensorSpec, bytes: &[u8]) -> Result<Tensor, String> {
    let tensor = read_npy(bytes).map_err(|error| format!("cannot be read: {}", chain(&error)))?;
    let batch: Vec<usize> = [1].into_iter().chain(tensor.shape.iter().copied()).collect();
    let shape = [tensor.shape.clone(), batch].into_iter().find(|shape| spec.accepts(shape));
    match shape {
        Some(shape) if tensor.datatype == spec.datatype => Ok(Tensor { shape, ..tensor }),
        _ => Err(format!("holds {} {:?}, but {}", tensor.datatype, tensor.shape, wants(spec))),
    }
}

/// Where an input keeps channels, rows and columns of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    ChannelsFirst,
    ChannelsLast,
}

/// Height, width and channels that an input wants; a free height or width is the picture's own.
fn picture_shape(spec: &TensorSpec, own: (u32, u32)) -> Option<(Layout, [usize; 3])> {
    let dims = match *spec.shape.as_slice() {
        [..=1, a, b, c] if spec.shape.first() != Some(&0) => [a, b, c],
        [a, b, c] => [a, b, c],
        _ => return None,
    };
    let size =
        |dim: i64, own: u32| if dim < 0 { usize::try_from(own).ok() } else { usize::try_from(dim).ok() };
    let (layout, [h, w, c]) = match dims {
        [c @ (1 | 3), h, w] => (Layout::ChannelsFirst, [h, w, c]),
        [h, w, c @ (1 | 3)] => (Layout::ChannelsLast, [h, w, c]),
        _ => return None,
    };
    Some((layout, [size(h, own.1)?, size(w, own.0)?, size(c, 1)?]))
}

/// A picture scaled to the input, bilinearly and without keeping its proportions; floats are 0 to 1, bytes 0 to 255.
fn picture_tensor(spec: &TensorSpec, picture: &DynamicImage) -> Result<Tensor, String> {
    let no = || {
        format!(
            "is a picture, but {}, which is not [1, 1 or 3, height, width] or [1, height, width, 1 or 3]",
            wants(spec)
        )
    };
    let (layout, [height, width, channels]) =
        picture_shape(spec, (picture.width(), picture.height())).ok_or_else(no)?;
    let side =
        |side: usize| u32::try_from(side).ok().filter(|side| (1..=16_384).contains(side)).ok_or_else(no);
    let scaled = picture.resize_exact(side(width)?, side(height)?, FilterType::Triangle);
    let pixels = if channels == 1 { scaled.into_luma8().into_raw() } else { scaled.into_rgb8().into_raw() };
    let ordered: Vec<u8> = match layout {
        Layout::ChannelsLast => pixels,
        Layout::ChannelsFirst => {
            (0..channels).flat_map(|channel| pixels.iter().skip(channel).step_by(channels).copied()).collect()
        }
    };
    let sizes = match layout {
        Layout::ChannelsLast => [height, width, channels],
        Layout::ChannelsFirst => [channels, height, width],
    };
    let shape = if spec.shape.len() == 4 { [&[1][..], &sizes[..]].concat() } else { sizes.to_vec() };
    let bytes = match spec.datatype {
        Datatype::Uint8 => ordered,
        Datatype::Fp32 => {
            ordered.iter().flat_map(|value| (f32::from(*value) / 255.0).to_le_bytes()).collect()
        }
        _ => return Err(format!("is a picture, but {}: FP32 and UINT8 are made of pictures", wants(spec))),
    };
    Tensor::new(spec.datatype, shape, bytes).map_err(|error| chain(&error))
}

/// The samples of a sound, channels averaged, -1 to 1.
#[expect(clippy::cast_precision_loss, reason = "24 bits are what a float holds")]
fn sound(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let bad = |error: hound::Error| format!("is no sound: {error}");
    let reader = hound::WavReader::new(bytes).map_err(bad)?;
    let spec = reader.spec();
    let full = (1_u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
    let samples: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.into_samples::<f32>().collect::<Result<_, _>>().map_err(bad)?,
        hound::SampleFormat::Int => reader
            .into_samples::<i32>()
            .map(|sample| sample.map(|sample| sample as f32 / full))
            .collect::<Result<_, _>>()
            .map_err(bad)?,
    };
    let channels = usize::from(spec.channels.max(1));
    Ok(samples.chunks(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect())
}

/// A sound of the input's length, cut or filled with silence; its rate is not changed.
#[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits")]
fn sound_tensor(spec: &TensorSpec, samples: &[f32]) -> Result<Tensor, String> {
    let no = || format!("is a sound, but {}, which is not [.., samples] with ones in front", wants(spec));
    let (length, front) = spec.shape.split_last().ok_or_else(no)?;
    if front.iter().any(|dim| *dim > 1 || *dim == 0) {
        return Err(no());
    }
    let length = if *length < 0 { samples.len() } else { usize::try_from(*length).map_err(|_| no())? };
    if length > MAX_INPUT / 4 {
        return Err(no());
    }
    let filled = samples.iter().copied().chain(std::iter::repeat(0.0)).take(length);
    let bytes: Vec<u8> = match spec.datatype {
        Datatype::Fp32 => filled.flat_map(f32::to_le_bytes).collect(),
        Datatype::Int16 => filled
            .flat_map(|value| ((value * 32_768.0).clamp(-32_768.0, 32_767.0) as i16).to_le_bytes())
            .collect(),
        _ => return Err(format!("is a sound, but {}: FP32 and INT16 are made of sounds", wants(spec))),
    };
    let shape = front.iter().map(|_| 1).chain([length]).collect();
    Tensor::new(spec.datatype, shape, bytes).map_err(|error| chain(&error))
}

fn random(specs: &[TensorSpec], args: &Args, count: u16) -> Result<Vec<Vec<Tensor>>, Problem> {
    let mut shapes = BTreeMap::new();
    for given in &args.shape {
        let bad =
            || Problem::new(format!("--shape {given}"), "write sizes such as --shape images=1,3,224,224");
        let (name, dims) = given.rsplit_once('=').ok_or_else(bad)?;
        let dims: Vec<usize> =
            dims.split(',').map(|dim| dim.trim().parse()).collect::<Result<_, _>>().map_err(|_| bad())?;
        shapes.insert(name, dims);
    }
    let mut numbers = Numbers(args.seed);
    (0..count)
        .map(|_| specs.iter().map(|spec| random_tensor(spec, &shapes, &mut numbers)).collect())
        .collect()
}

fn random_tensor(
    spec: &TensorSpec,
    shapes: &BTreeMap<&str, Vec<usize>>,
    numbers: &mut Numbers,
) -> Result<Tensor, Problem> {
    let sizes: Vec<String> = spec.shape.iter().map(|dim| dim.max(&1).to_string()).collect();
    let hint = format!("--shape {}={}, with sizes of your own", spec.name, sizes.join(","));
    let no = |why: &str| Problem::new(format!("{}{why}", wants(spec)), hint.clone());
    let shape = match shapes.get(spec.name.as_str()) {
        Some(shape) if spec.accepts(shape) => shape.clone(),
        Some(_) => return Err(no(", which --shape does not fit")),
        None => own_shape(&spec.shape).ok_or_else(|| no(": sizes are needed where it says -1"))?,
    };
    let size = spec.datatype.size().ok_or_else(|| no(": texts are not made at random"))?;
    let count = element_count(&shape).ok().filter(|count| *count <= MAX_INPUT / size);
    let count = count.ok_or_else(|| no(", which is larger than 256 MiB"))?;
    let bytes: Vec<u8> = (0..count).flat_map(|_| numbers.element(spec.datatype)).collect();
    Tensor::new(spec.datatype, shape, bytes).map_err(|error| no(&format!(": {}", chain(&error))))
}

/// A free first dimension is one sample; no other free dimension has a size that is right for every model.
fn own_shape(shape: &[i64]) -> Option<Vec<usize>> {
    let dim =
        |(axis, dim): (usize, &i64)| if axis == 0 && *dim < 0 { Some(1) } else { usize::try_from(*dim).ok() };
    shape.iter().enumerate().map(dim).collect()
}

/// Pseudo-random numbers.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A float from 0 to 1, or a whole number 0 or 1, as little-endian bytes.
    fn element(&mut self, datatype: Datatype) -> Vec<u8> {
        let bits = self.next();
        let unit = f32::from((bits >> 48) as u16) / 65_536.0;
        let one = (bits & 1) as u16;
        match datatype {
            Datatype::Fp32 => unit.to_le_bytes().to_vec(),
            Datatype::Fp64 => f64::from(unit).to_le_bytes().to_vec(),
            // 1.0 is 0x3c00 as a half and 0x3f80 as a bfloat16.
            Datatype::Fp16 => (0x3c00 * one).to_le_bytes().to_vec(),
            Datatype::Bf16 => (0x3f80 * one).to_le_bytes().to_vec(),
            _ => {
                let rest = datatype.size().unwrap_or(1).saturating_sub(1);
                std::iter::once(one.to_le_bytes()[0]).chain(std::iter::repeat_n(0, rest)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.to_vec() }
    }

    /// Two pixels: red, then white.
    fn picture() -> DynamicImage {
        DynamicImage::from(image::RgbImage::from_raw(2, 1, vec![255, 0, 0, 255, 255, 255]).unwrap())
    }

    #[test]
    fn a_picture_takes_the_layout_and_size_of_the_input() {
        for (shape, want_shape, want) in [
            (&[-1, 3, 1, 2][..], &[1, 3, 1, 2][..], &[255, 255, 0, 255, 0, 255][..]),
            (&[1, 1, 2, 3], &[1, 1, 2, 3][..], &[]),
            (&[1, -1, -1, 3], &[1, 1, 2, 3], &[255, 0, 0, 255, 255, 255]),
            (&[3, -1, -1], &[3, 1, 2], &[255, 255, 0, 255, 0, 255]),
        ] {
            let got = picture_tensor(&spec(Datatype::Uint8, shape), &picture()).unwrap();
            assert_eq!(got.shape, want_shape, "{shape:?}");
            assert!(want.is_empty() || got.bytes == want, "{shape:?}: {:?}", got.bytes);
        }
        let floats = picture_tensor(&spec(Datatype::Fp32, &[1, 3, 1, 2]), &picture()).unwrap();
        assert_eq!(floats.view().to_f64(), [1.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        for (datatype, shape) in
            [(Datatype::Int64, &[1, 3, 1, 2][..]), (Datatype::Fp32, &[1, 2, 1, 2]), (Datatype::Fp32, &[1, 4])]
        {
            assert!(
                picture_tensor(&spec(datatype, shape), &picture())
                    .unwrap_err()
                    .starts_with("is a picture, but")
            );
        }
    }

    #[test]
    fn a_sound_is_cut_or_filled_to_the_inputs_length() {
        let samples = [0.5, -0.5, 1.0];
        for (shape, want) in
            [(&[1, 2][..], &[0.5, -0.5][..]), (&[-1, 4], &[0.5, -0.5, 1.0, 0.0]), (&[-1], &[0.5, -0.5, 1.0])]
        {
            let got = sound_tensor(&spec(Datatype::Fp32, shape), &samples).unwrap();
            assert_eq!(got.view().to_f64(), want, "{shape:?}");
        }
        let whole = sound_tensor(&spec(Datatype::Int16, &[3]), &samples).unwrap();
        assert_eq!(whole.view().to_f64(), [16_384.0, -16_384.0, 32_767.0]);
        assert!(sound_tensor(&spec(Datatype::Fp32, &[2, 8]), &samples).is_err());
    }

    #[test]
    fn a_wave_file_is_read_as_floats_of_one_channel() {
        let mut file = std::io::Cursor::new(Vec::new());
        let form = hound::WavSpec {
            channels: 2,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::new(&mut file, form).unwrap();
        for value in [16_384_i16, 0, -16_384, -16_384] {
            writer.write_sample(value).unwrap();
        }
        writer.finalize().unwrap();
        assert_eq!(sound(file.get_ref()), Ok(vec![0.25, -0.5]));
        assert!(sound(b"RIFF").is_err());
    }

    #[test]
    fn an_array_may_leave_out_the_batch() {
        let file = agentd_engine::write_npy(&Tensor::from_f32(vec![3], &[1.0, 2.0, 3.0]).unwrap()).unwrap();
        assert_eq!(array(&spec(Datatype::Fp32, &[-1, 3]), &file).unwrap().shape, [1, 3]);
        assert_eq!(array(&spec(Datatype::Fp32, &[3]), &file).unwrap().shape, [3]);
        let error = array(&spec(Datatype::Fp64, &[3]), &file).unwrap_err();
        assert_eq!(error, "holds FP32 [3], but `x` is FP64 [3]");
    }

    #[test]
    fn files_are_matched_with_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.npy");
        let tensor = Tensor::from_f32(vec![1], &[1.0]).unwrap();
        std::fs::write(&file, agentd_engine::write_npy(&tensor).unwrap()).unwrap();
        let file = file.to_str().unwrap();
        let x = spec(Datatype::Fp32, &[1]);
        let y = TensorSpec { name: "y".into(), ..x.clone() };
        let one = std::slice::from_ref(&x);
        let two = [x.clone(), y];
        assert_eq!(sample(one, file).unwrap(), std::slice::from_ref(&tensor));
        assert_eq!(sample(one, &format!("x={file}")).unwrap(), std::slice::from_ref(&tensor));
        assert_eq!(sample(&two, &format!("y={file},x={file}")).unwrap(), [tensor.clone(), tensor]);
        for (specs, given, want) in [
            (one, "gone.npy".to_owned(), "cannot be read"),
            (one, format!("z={file}"), "no input `z`"),
            (&two, file.to_owned(), "does not say which input"),
            (&two, format!("x={file}"), "gives nothing for the input `y`"),
        ] {
            let problem = sample(specs, &given).unwrap_err();
            assert!(problem.cause.contains(want), "{}", problem.cause);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_numbers() {
        for datatype in Datatype::ALL.into_iter().filter(|datatype| *datatype != Datatype::Bytes) {
            let make =
                || random_tensor(&spec(datatype, &[-1, 3]), &BTreeMap::new(), &mut Numbers(5)).unwrap();
            assert_eq!(make(), make());
            assert_eq!(make().shape, [1, 3]);
        }
        let free =
            random_tensor(&spec(Datatype::Fp32, &[-1, -1]), &BTreeMap::new(), &mut Numbers(5)).unwrap_err();
        assert_eq!(free.hint, "--shape x=1,1, with sizes of your own");
    }
}
