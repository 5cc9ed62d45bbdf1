//! JSON elements straight into a tensor's bytes, flat or nested, without a value in between.
//!
//! In: the `data` field of an input whose datatype and shape are known and fit the model. Out: the tensor's bytes.
//! Refuses elements of another type or beyond the datatype's range, and more, fewer or otherwise nested elements
//! than the shape says, as soon as they show.

use std::{fmt, marker::PhantomData};

use agentd_types::Datatype;
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};

/// The elements of one input: a seed for the `data` field.
pub(crate) struct DataSeed<'a> {
    pub(crate) datatype: Datatype,
    pub(crate) shape: &'a [usize],
    /// The product of `shape`.
    pub(crate) count: usize,
    /// Bytes of JSON that may still follow; bounds the first allocation together with `count`.
    pub(crate) json_bytes: usize,
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        match self.datatype {
            Datatype::Bool => self.walk::<bool, D>(deserializer),
            Datatype::Uint8 => self.walk::<u8, D>(deserializer),
            Datatype::Uint16 => self.walk::<u16, D>(deserializer),
            Datatype::Uint32 => self.walk::<u32, D>(deserializer),
            Datatype::Uint64 => self.walk::<u64, D>(deserializer),
            Datatype::Int8 => self.walk::<i8, D>(deserializer),
            Datatype::Int16 => self.walk::<i16, D>(deserializer),
            Datatype::Int32 => self.walk::<i32, D>(deserializer),
            Datatype::Int64 => self.walk::<i64, D>(deserializer),
            Datatype::Fp32 => self.walk::<f32, D>(deserializer),
            Datatype::Fp64 => self.walk::<f64, D>(deserializer),
            Datatype::Bytes => self.walk::<Text, D>(deserializer),
            Datatype::Fp16 | Datatype::Bf16 => Err(de::Error::custom(format_args!(
                "cannot hold {} in JSON: send it with the parameter `binary_data_size`",
                self.datatype
            ))),
        }
    }
}

impl DataSeed<'_> {
    fn walk<'de, E: Element, D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        // An element and its comma are at least two bytes of JSON.
        let expected = self.count.min(self.json_bytes / 2 + 1);
        let mut walk = Walk::<E> {
            bytes: Vec::with_capacity(expected.saturating_mul(self.datatype.size().unwrap_or(8))),
            shape: self.shape,
            want: self.count,
            got: 0,
            depth: None,
            element: PhantomData,
        };
        deserializer.deserialize_seq(Level { walk: &mut walk, depth: 0 })?;
        if walk.got < walk.want {
            return Err(de::Error::custom(format_args!(
                "has {} elements, the shape needs {}",
                walk.got, walk.want
            )));
        }
        Ok(walk.bytes)
    }
}

struct Walk<'a, E> {
    bytes: Vec<u8>,
    shape: &'a [usize],
    want: usize,
    got: usize,
    /// How many arrays hold an element, known from the first element on: 1 is flat, the rank is nested.
    depth: Option<usize>,
    element: PhantomData<E>,
}

impl<E: Element> Walk<'_, E> {
    fn first<X: de::Error>(&mut self, depth: usize) -> Result<(), X> {
        if self.depth.is_some() || depth != 1 && depth != self.shape.len() {
            return Err(de::Error::custom(format_args!(
                "must be one flat array or be nested like the shape, {} deep",
                self.shape.len()
            )));
        }
        self.depth = Some(depth);
        Ok(())
    }

    #[inline]
    fn take<X: de::Error>(&mut self, depth: usize) -> Result<(), X> {
        if self.depth != Some(depth) {
            self.first(depth)?;
        }
        if self.got == self.want {
            return Err(de::Error::custom(format_args!(
                "has more than the {} elements of the shape",
                self.want
            )));
        }
        self.got += 1;
        Ok(())
    }
}

/// One value that is an element or an array of them, `depth` arrays deep.
struct Level<'w, 's, E> {
    walk: &'w mut Walk<'s, E>,
    depth: usize,
}

impl<'de, E: Element> DeserializeSeed<'de> for Level<'_, '_, E> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, E: Element> Visitor<'de> for Level<'_, '_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 { f.write_str("an array") } else { write!(f, "{} or an array", E::WHAT) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { walk, depth } = self;
        if depth >= walk.shape.len().max(1) {
            return Err(de::Error::custom(format_args!(
                "is nested deeper than the {} dimensions of the shape",
                walk.shape.len()
            )));
        }
        let mut length = 0_usize;
        while seq.next_element_seed(Level { walk: &mut *walk, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        // An array of a nested form must be as long as its dimension; a flat one is held against the product.
        match (walk.depth, walk.shape.get(depth)) {
            (Some(deep), Some(dim)) if deep == walk.shape.len() && length != *dim => Err(de::Error::custom(
                format_args!("has an array of {length} at dimension {depth}, which is {dim}"),
            )),
            _ => Ok(()),
        }
    }

    #[inline]
    fn visit_f64<X: de::Error>(self, value: f64) -> Result<(), X> {
        self.walk.take(self.depth)?;
        if E::from_f64(value, &mut self.walk.bytes) { Ok(()) } else { Err(unfit::<E, X>(&value)) }
    }

    #[inline]
    fn visit_u64<X: de::Error>(self, value: u64) -> Result<(), X> {
        self.walk.take(self.depth)?;
        if E::from_u64(value, &mut self.walk.bytes) { Ok(()) } else { Err(unfit::<E, X>(&value)) }
    }

    #[inline]
    fn visit_i64<X: de::Error>(self, value: i64) -> Result<(), X> {
        self.walk.take(self.depth)?;
        if E::from_i64(value, &mut self.walk.bytes) { Ok(()) } else { Err(unfit::<E, X>(&value)) }
    }

    fn visit_bool<X: de::Error>(self, value: bool) -> Result<(), X> {
        self.walk.take(self.depth)?;
        if E::from_bool(value, &mut self.walk.bytes) { Ok(()) } else { Err(unfit::<E, X>(&value)) }
    }

    fn visit_str<X: de::Error>(self, value: &str) -> Result<(), X> {
        self.walk.take(self.depth)?;
        if E::from_str(value, &mut self.walk.bytes) { Ok(()) } else { Err(unfit::<E, X>(&"a string")) }
    }
}

#[cold]
fn unfit<E: Element, X: de::Error>(value: &dyn fmt::Display) -> X {
    de::Error::custom(format_args!("holds {value}, which is not {}", E::WHAT))
}

/// A datatype that JSON can hold. Each function appends the element's bytes, or returns false when the value is
/// not one of the datatype.
trait Element {
    /// For people, with its article.
    const WHAT: &'static str;

    fn from_u64(_: u64, _: &mut Vec<u8>) -> bool {
        false
    }
    fn from_i64(_: i64, _: &mut Vec<u8>) -> bool {
        false
    }
    fn from_f64(_: f64, _: &mut Vec<u8>) -> bool {
        false
    }
    fn from_bool(_: bool, _: &mut Vec<u8>) -> bool {
        false
    }
    fn from_str(_: &str, _: &mut Vec<u8>) -> bool {
        false
    }
}

macro_rules! integer {
    ($($type:ty = $what:literal),*) => {$(
        impl Element for $type {
            const WHAT: &'static str = $what;

            #[inline]
            fn from_u64(value: u64, out: &mut Vec<u8>) -> bool {
                Self::try_from(value).map(|value| out.extend_from_slice(&value.to_le_bytes())).is_ok()
            }

            #[inline]
            fn from_i64(value: i64, out: &mut Vec<u8>) -> bool {
                Self::try_from(value).map(|value| out.extend_from_slice(&value.to_le_bytes())).is_ok()
            }
        }
    )*};
}

integer!(
    u8 = "a UINT8",
    u16 = "a UINT16",
    u32 = "a UINT32",
    u64 = "a UINT64",
    i8 = "an INT8",
    i16 = "an INT16",
    i32 = "an INT32",
    i64 = "an INT64"
);

macro_rules! float {
    ($($type:ty = $what:literal),*) => {$(
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "the nearest float, as the caller's own would be; FP64 truncates nothing, FP32 may"
        )]
        impl Element for $type {
            const WHAT: &'static str = $what;

            #[inline]
            fn from_u64(value: u64, out: &mut Vec<u8>) -> bool {
                out.extend_from_slice(&(value as Self).to_le_bytes());
                true
            }

            #[inline]
            fn from_i64(value: i64, out: &mut Vec<u8>) -> bool {
                out.extend_from_slice(&(value as Self).to_le_bytes());
                true
            }

            #[inline]
            fn from_f64(value: f64, out: &mut Vec<u8>) -> bool {
                let value = value as Self;
                out.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
        }
    )*};
}

float!(f32 = "a finite FP32", f64 = "a finite FP64");

impl Element for bool {
    const WHAT: &'static str = "true or false";

    fn from_bool(value: bool, out: &mut Vec<u8>) -> bool {
        out.push(u8::from(value));
        true
    }
}

/// An element of `BYTES`: the UTF-8 of a string behind its length.
struct Text;

impl Element for Text {
    const WHAT: &'static str = "a string of at most 2^32 bytes";

    fn from_str(value: &str, out: &mut Vec<u8>) -> bool {
        let Ok(length) = u32::try_from(value.len()) else { return false };
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value.as_bytes());
        true
    }
}
