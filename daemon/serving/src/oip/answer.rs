//! Tensors into the body of an answer, as JSON, in binary, or each output as it is wanted.

use std::io::Write;

use agentd_engine::Tensor;
use agentd_types::{Datatype, TensorSpec};
use bytes::Bytes;

use super::{
    RequestError,
    request::{Form, Wanted},
};

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// JSON, and behind it small binary tensors.
    pub(crate) head: Vec<u8>,
    /// Length of the JSON, when binary follows.
    pub(crate) header_length: Option<usize>,
    /// Large binary tensors that follow, not copied.
    pub(crate) tail: Vec<Bytes>,
}

/// Below this a copy costs less than one more piece to write.
const COPY_BELOW: usize = 32 << 10;

/// Writes the outputs that are wanted.
///
/// `model`, `version`, `id`: as they stand in the answer. `outputs`: in the model's order, as promised by `specs`.
pub(crate) fn encode(
    (model, version): (&str, &str),
    id: Option<&str>,
    wanted: &[Wanted],
    specs: &[TensorSpec],
    outputs: &[Tensor],
) -> Result<Answer, RequestError> {
    let chosen = || {
        wanted
            .iter()
            .filter_map(|wanted| Some((specs.get(wanted.index)?, outputs.get(wanted.index)?, wanted.form)))
    };
    let room: usize = chosen().map(|(spec, output, form)| 96 + spec.name.len() + room_of(output, form)).sum();
    let mut head = Vec::with_capacity(room + 128);
    head.extend_from_slice(b"{\"model_name\":");
    string(&mut head, model);
    head.extend_from_slice(b",\"model_version\":");
    string(&mut head, version);
    if let Some(id) = id {
        head.extend_from_slice(b",\"id\":");
        string(&mut head, id);
    }
    head.extend_from_slice(b",\"outputs\":[");
    for (position, (spec, output, form)) in chosen().enumerate() {
        head.extend_from_slice(if position == 0 { b"{\"name\":" } else { b",{\"name\":" });
        string(&mut head, &spec.name);
        put(&mut head, format_args!(",\"datatype\":\"{}\",\"shape\":[", output.datatype));
        for (position, dim) in output.shape.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            put(&mut head, format_args!("{comma}{dim}"));
        }
        match form {
            Form::Binary => {
                let size = output.bytes.len();
                put(&mut head, format_args!("],\"parameters\":{{\"binary_data_size\":{size}}}}}"));
            }
            Form::Json => {
                head.extend_from_slice(b"],\"data\":[");
                data(&mut head, output)
                    .map_err(|reason| RequestError::NeedsBinary { name: spec.name.clone(), reason })?;
                head.extend_from_slice(b"]}");
            }
        }
    }
    head.extend_from_slice(b"]}");
    let json = head.len();
    let mut tail = Vec::new();
    for (_, output, form) in chosen() {
        match form {
            Form::Json => {}
            Form::Binary if tail.is_empty() && output.bytes.len() < COPY_BELOW => {
                head.extend_from_slice(&output.bytes)
            }
            Form::Binary => tail.push(output.bytes.clone()),
        }
    }
    let header_length = chosen().any(|(_, _, form)| form == Form::Binary).then_some(json);
    Ok(Answer { head, header_length, tail })
}

/// About how many bytes a tensor takes in the head.
fn room_of(output: &Tensor, form: Form) -> usize {
    let length = output.bytes.len();
    match form {
        Form::Binary if length >= COPY_BELOW => 0,
        Form::Binary => length,
        // A number of n bytes has up to 3 n digits, a sign, a point and a comma.
        Form::Json => length * 3,
    }
}

/// Appends the elements, or says why JSON cannot hold them.
fn data(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), &'static str> {
    macro_rules! integers {
        ($n:literal, $type:ty) => {{
            for element in tensor.bytes.as_chunks::<$n>().0 {
                json(out, &<$type>::from_le_bytes(*element));
            }
        }};
    }
    macro_rules! floats {
        ($n:literal, $type:ty) => {{
            for element in tensor.bytes.as_chunks::<$n>().0 {
                let value = <$type>::from_le_bytes(*element);
                if !value.is_finite() {
                    return Err("has NaN or infinity, which JSON cannot hold");
                }
                json(out, &value);
            }
        }};
    }
    match tensor.datatype {
        Datatype::Bool => tensor.bytes.iter().for_each(|byte| json(out, &(*byte != 0))),
        Datatype::Uint8 => integers!(1, u8),
        Datatype::Uint16 => integers!(2, u16),
        Datatype::Uint32 => integers!(4, u32),
        Datatype::Uint64 => integers!(8, u64),
        Datatype::Int8 => integers!(1, i8),
        Datatype::Int16 => integers!(2, i16),
        Datatype::Int32 => integers!(4, i32),
        Datatype::Int64 => integers!(8, i64),
        Datatype::Fp32 => floats!(4, f32),
        Datatype::Fp64 => floats!(8, f64),
        Datatype::Bytes => return texts(out, &tensor.bytes),
        Datatype::Fp16 | Datatype::Bf16 => return Err("is of a 16-bit float, which JSON cannot hold"),
    }
    if out.last() == Some(&b',') {
        out.pop();
    }
    Ok(())
}

fn texts(out: &mut Vec<u8>, mut bytes: &[u8]) -> Result<(), &'static str> {
    const DAMAGED: &str = "has BYTES whose lengths do not add up";
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DAMAGED)?;
        let (text, rest) = rest.split_at_checked(length).ok_or(DAMAGED)?;
        let text =
            std::str::from_utf8(text).map_err(|_| "has BYTES that are not UTF-8, which JSON cannot hold")?;
        string(out, text);
        out.push(b',');
        bytes = rest;
    }
    if out.last() == Some(&b',') {
        out.pop();
    }
    Ok(())
}

/// Appends a number or truth value and a comma. Floats are the shortest text that reads back as the same float.
fn json<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    write_json(out, value);
    out.push(b',');
}

fn string(out: &mut Vec<u8>, text: &str) {
    write_json(out, text);
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "a vector takes everything");
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a vector takes everything");
}
