//! The JSON part of an inference request, read in one pass.
//!
//! In: bytes. Out: a [`Header`] whose tensors from `data` are already bytes. Unknown fields are ignored, as the
//! protocol asks; a field that stands twice is refused. Deep nesting is stopped by serde_json at 128 levels.

use std::{borrow::Cow, cell::Cell, fmt};

use agentd_types::{Datatype, TensorSpec, element_count};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::{RequestError, data::DataSeed};

/// A request as its JSON part says it.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) id: Option<String>,
    pub(crate) parameters: Parameters,
    pub(crate) inputs: Vec<Input>,
    /// `None` when the field is absent or empty: all outputs are wanted.
    pub(crate) outputs: Option<Vec<Output>>,
}

/// One input, held against the model.
#[derive(Debug)]
pub(crate) struct Input {
    /// Which of the model's inputs.
    pub(crate) index: usize,
    pub(crate) shape: Vec<usize>,
    /// The product of `shape`.
    pub(crate) count: usize,
    pub(crate) source: Source,
}

/// Where the elements are.
#[derive(Debug)]
pub(crate) enum Source {
    /// They were in `data`.
    Json(Vec<u8>),
    /// They follow the header, this many bytes of them.
    Binary(u64),
}

/// One output that is wanted.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) parameters: Parameters,
}

/// Parameters of a request, an input or an output; those without meaning here are ignored.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) binary_data_output: Option<bool>,
    pub(crate) binary_data: Option<bool>,
    pub(crate) binary_data_size: Option<u64>,
    /// Microseconds.
    pub(crate) timeout: Option<u64>,
    /// The first parameter that asks for what this server does not do.
    pub(crate) unsupported: Option<&'static str>,
}

/// Reads the JSON part.
pub(crate) fn parse(bytes: &[u8], specs: &[TensorSpec]) -> Result<Header, RequestError> {
    let context = Context { specs, json_bytes: bytes.len(), fault: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let header = HeaderSeed(&context).deserialize(&mut deserializer);
    let header = header.and_then(|header| deserializer.end().map(|()| header));
    header.map_err(|source| context.fault.take().unwrap_or(RequestError::Json { source }))
}

/// What every level knows: the model, and where a fault with a code is left for the caller.
struct Context<'m> {
    specs: &'m [TensorSpec],
    json_bytes: usize,
    fault: Cell<Option<RequestError>>,
}

impl Context<'_> {
    fn fail<E: de::Error>(&self, fault: RequestError) -> E {
        self.fault.set(Some(fault));
        E::custom("refused")
    }
}

macro_rules! keys {
    ($name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        #[derive(Clone, Copy, PartialEq)]
        enum $name { $($variant,)* Other }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Key;
                impl Visitor<'_> for Key {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a field name")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        Ok(match text { $($text => $name::$variant,)* _ => $name::Other })
                    }
                }
                deserializer.deserialize_identifier(Key)
            }
        }
    };
}

keys!(TopKey { Id = "id", Parameters = "parameters", Inputs = "inputs", Outputs = "outputs" });
keys!(InputKey {
    Name = "name",
    Shape = "shape",
    Datatype = "datatype",
    Parameters = "parameters",
    Data = "data",
});
keys!(OutputKey { Name = "name", Parameters = "parameters" });
keys!(ParameterKey {
    BinaryData = "binary_data",
    BinaryDataSize = "binary_data_size",
    BinaryDataOutput = "binary_data_output",
    Timeout = "timeout",
    Classification = "classification",
    Region = "shared_memory_region",
    Sequence = "sequence_id",
});

/// Sets a field once.
fn once<T, E: de::Error>(
    context: &Context<'_>,
    slot: &mut Option<T>,
    name: &'static str,
    value: T,
) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(context.fail(RequestError::field(name, "stands there twice"))),
    }
}

struct HeaderSeed<'c, 'm>(&'c Context<'m>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, '_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, '_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let context = self.0;
        let (mut id, mut parameters, mut inputs, mut outputs) = (None, None, None, None);
        while let Some(key) = map.next_key()? {
            match key {
                TopKey::Id => once(context, &mut id, "id", map.next_value::<String>()?)?,
                TopKey::Parameters => {
                    once(
                        context,
                        &mut parameters,
                        "parameters",
                        map.next_value_seed(ParametersSeed(context))?,
                    )?;
                }
                TopKey::Inputs => {
                    let value = map.next_value_seed(ListSeed(|| InputSeed(context), "inputs"))?;
                    once(context, &mut inputs, "inputs", value)?;
                }
                TopKey::Outputs => {
                    let value = map.next_value_seed(ListSeed(|| OutputSeed(context), "outputs"))?;
                    once(context, &mut outputs, "outputs", value)?;
                }
                TopKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let inputs = inputs.ok_or_else(|| context.fail(RequestError::field("inputs", "is missing")))?;
        Ok(Header {
            id,
            parameters: parameters.unwrap_or_default(),
            inputs,
            outputs: outputs.filter(|outputs: &Vec<Output>| !outputs.is_empty()),
        })
    }
}

/// An array of what a seed makes; no model has more inputs or outputs than this.
const MAX_LIST: usize = 4096;

struct ListSeed<F>(F, &'static str);

impl<'de, F: Fn() -> S, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ListSeed<F> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: Fn() -> S, S: DeserializeSeed<'de>> Visitor<'de> for ListSeed<F> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array in field `{}`", self.1)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed((self.0)())? {
            if list.len() == MAX_LIST {
                return Err(de::Error::custom(format_args!(
                    "field `{}` has more than {MAX_LIST} entries",
                    self.1
                )));
            }
            list.push(item);
        }
        Ok(list)
    }
}

struct InputSeed<'c, 'm>(&'c Context<'m>);

impl<'de> DeserializeSeed<'de> for InputSeed<'_, '_> {
    type Value = Input;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// What is known of an input while its fields come in.
#[derive(Default)]
struct Draft<'de> {
    name: Option<Cow<'de, str>>,
    shape: Option<Vec<usize>>,
    datatype: Option<Cow<'de, str>>,
    parameters: Option<Parameters>,
    data: Option<Vec<u8>>,
    /// `data` that came before the fields that say what it is.
    raw: Option<&'de RawValue>,
}

impl Draft<'_> {
    /// Which of the model's inputs this is, and its element count, once name, datatype and shape fit the model.
    fn place(&self, context: &Context<'_>) -> Result<(usize, usize), RequestError> {
        let name = self.name.as_deref().ok_or_else(|| RequestError::field("inputs[].name", "is missing"))?;
        let found = context.specs.iter().position(|spec| spec.name == name);
        let (index, spec) = found
            .and_then(|index| Some((index, context.specs.get(index)?)))
            .ok_or_else(|| RequestError::UnknownInput { name: shown(name), known: names(context.specs) })?;
        let owned = || shown(name);
        let datatype = self.datatype.as_deref().ok_or_else(|| RequestError::Data {
            name: owned(),
            reason: "comes without field `datatype`".into(),
        })?;
        if datatype != spec.datatype.as_str() {
            return Err(RequestError::Datatype { name: owned(), got: shown(datatype), want: spec.datatype });
        }
        let shape = self.shape.as_deref().ok_or_else(|| RequestError::Data {
            name: owned(),
            reason: "comes without field `shape`".into(),
        })?;
        let count = element_count(shape).map_err(|_| RequestError::Elements { name: owned() })?;
        if !spec.accepts(shape) {
            let (got, want) = (format!("{shape:?}"), format!("{:?}", spec.shape));
            return Err(RequestError::Shape { name: owned(), got, want });
        }
        Ok((index, count))
    }

    const fn is_described(&self) -> bool {
        self.name.is_some() && self.shape.is_some() && self.datatype.is_some()
    }

    fn seed<'a>(&'a self, context: &Context<'_>) -> Result<(DataSeed<'a>, usize), RequestError> {
        let (index, count) = self.place(context)?;
        let datatype = context.specs.get(index).map_or(Datatype::Bytes, |spec| spec.datatype);
        let shape = self.shape.as_deref().unwrap_or_default();
        Ok((DataSeed { datatype, shape, count, json_bytes: context.json_bytes }, index))
    }

    fn finish(mut self, context: &Context<'_>) -> Result<Input, RequestError> {
        if let Some(raw) = self.raw {
            let (seed, _) = self.seed(context)?;
            let data = seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()));
            self.data = Some(data.map_err(|error| self.data_fault(&error))?);
        }
        let (index, count) = self.place(context)?;
        let name = || shown(self.name.as_deref().unwrap_or_default());
        let parameters = self.parameters.unwrap_or_default();
        if let Some(what) = parameters.unsupported {
            return Err(RequestError::Unsupported { what });
        }
        let source = match (self.data, parameters.binary_data_size) {
            (Some(data), None) => Source::Json(data),
            (None, Some(size)) => Source::Binary(size),
            (Some(_), Some(_)) => {
                let reason = "stands beside the parameter `binary_data_size`".into();
                return Err(RequestError::Data { name: name(), reason });
            }
            (None, None) => {
                let reason = "is missing, and so is the parameter `binary_data_size`".into();
                return Err(RequestError::Data { name: name(), reason });
            }
        };
        Ok(Input { index, shape: self.shape.unwrap_or_default(), count, source })
    }

    fn data_fault(&self, error: &impl fmt::Display) -> RequestError {
        let name = shown(self.name.as_deref().unwrap_or_default());
        RequestError::Data { name, reason: error.to_string() }
    }
}

impl<'de> Visitor<'de> for InputSeed<'_, '_> {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input: an object with name, datatype, shape and data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        let context = self.0;
        let mut draft = Draft::default();
        while let Some(key) = map.next_key()? {
            match key {
                InputKey::Name => {
                    once(context, &mut draft.name, "inputs[].name", map.next_value::<Text<'_>>()?.0)?
                }
                InputKey::Datatype => {
                    once(context, &mut draft.datatype, "inputs[].datatype", map.next_value::<Text<'_>>()?.0)?;
                }
                InputKey::Shape => {
                    once(
                        context,
                        &mut draft.shape,
                        "inputs[].shape",
                        map.next_value_seed(ShapeSeed(context))?,
                    )?;
                }
                InputKey::Parameters => {
                    let value = map.next_value_seed(ParametersSeed(context))?;
                    once(context, &mut draft.parameters, "inputs[].parameters", value)?;
                }
                InputKey::Data if draft.data.is_some() || draft.raw.is_some() => {
                    return Err(context.fail(RequestError::field("inputs[].data", "stands there twice")));
                }
                InputKey::Data if draft.is_described() => {
                    let (seed, _) = draft.seed(context).map_err(|fault| context.fail(fault))?;
                    let data = map.next_value_seed(seed);
                    draft.data = Some(data.map_err(|error| context.fail(draft.data_fault(&error)))?);
                }
                InputKey::Data => draft.raw = Some(map.next_value()?),
                InputKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        draft.finish(context).map_err(|fault| context.fail(fault))
    }
}

struct OutputSeed<'c, 'm>(&'c Context<'m>);

impl<'de> DeserializeSeed<'de> for OutputSeed<'_, '_> {
    type Value = Output;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Output, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OutputSeed<'_, '_> {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an output: an object with a name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Output, A::Error> {
        let context = self.0;
        let (mut name, mut parameters) = (None, None);
        while let Some(key) = map.next_key()? {
            match key {
                OutputKey::Name => once(context, &mut name, "outputs[].name", map.next_value::<String>()?)?,
                OutputKey::Parameters => {
                    let value = map.next_value_seed(ParametersSeed(context))?;
                    once(context, &mut parameters, "outputs[].parameters", value)?;
                }
                OutputKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let name = name.ok_or_else(|| context.fail(RequestError::field("outputs[].name", "is missing")))?;
        let parameters: Parameters = parameters.unwrap_or_default();
        if let Some(what) = parameters.unsupported {
            return Err(context.fail(RequestError::Unsupported { what }));
        }
        Ok(Output { name, parameters })
    }
}

/// No engine has tensors of more dimensions.
const MAX_RANK: usize = 32;

struct ShapeSeed<'c, 'm>(&'c Context<'m>);

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_, '_> {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<usize>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_, '_> {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shape: an array of integers from 0 in field `shape`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
        let mut shape = Vec::with_capacity(4);
        while let Some(dim) = seq.next_element::<i128>()? {
            if shape.len() == MAX_RANK {
                let problem = format!("has more than {MAX_RANK} dimensions");
                return Err(self.0.fail(RequestError::field("inputs[].shape", problem)));
            }
            let dim = usize::try_from(dim).map_err(|_| {
                self.0.fail(RequestError::field("inputs[].shape", format!("has a dimension of {dim}")))
            })?;
            shape.push(dim);
        }
        Ok(shape)
    }
}

/// Text borrowed from the request unless it has escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

struct ParametersSeed<'c, 'm>(&'c Context<'m>);

impl<'de> DeserializeSeed<'de> for ParametersSeed<'_, '_> {
    type Value = Parameters;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parameters, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ParametersSeed<'_, '_> {
    type Value = Parameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object in field `parameters`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
        let context = self.0;
        let mut parameters = Parameters::default();
        while let Some(key) = map.next_key()? {
            match key {
                ParameterKey::BinaryData => {
                    once(context, &mut parameters.binary_data, "parameters.binary_data", map.next_value()?)?;
                }
                ParameterKey::BinaryDataOutput => {
                    let value = map.next_value()?;
                    once(
                        context,
                        &mut parameters.binary_data_output,
                        "parameters.binary_data_output",
                        value,
                    )?;
                }
                ParameterKey::BinaryDataSize => {
                    let value = map.next_value()?;
                    once(context, &mut parameters.binary_data_size, "parameters.binary_data_size", value)?;
                }
                ParameterKey::Timeout => {
                    once(context, &mut parameters.timeout, "parameters.timeout", map.next_value()?)?;
                }
                ParameterKey::Classification => {
                    map.next_value::<IgnoredAny>()?;
                    parameters.unsupported = Some("parameter `classification` is not offered here");
                }
                ParameterKey::Region => {
                    map.next_value::<IgnoredAny>()?;
                    parameters.unsupported =
                        Some("parameter `shared_memory_region`: shared memory is not offered here");
                }
                ParameterKey::Sequence => {
                    map.next_value::<IgnoredAny>()?;
                    parameters.unsupported =
                        Some("parameter `sequence_id`: models here keep no state between requests");
                }
                ParameterKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(parameters)
    }
}

/// Text from outside, short enough for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The names of tensors, for a message.
pub(crate) fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<&str> = specs.iter().take(16).map(|spec| spec.name.as_str()).collect();
    names.join(", ")
}
