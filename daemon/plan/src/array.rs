//! Arrays: constants of a plan, and the values that the interpreter computes with.

use std::sync::Arc;

use agentd_types::Datatype;
use half::{bf16, f16};

use crate::{
    error::PlanError,
    shape::{self, Walk},
};

/// Datatype and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The datatype of its elements.
    pub datatype: Datatype,
    /// Its dimensions, all known.
    pub shape: Vec<usize>,
}

impl Fact {
    /// A fact.
    pub fn new(datatype: Datatype, shape: impl Into<Vec<usize>>) -> Self {
        Self { datatype, shape: shape.into() }
    }

    /// How many dimensions it has.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same shape with another datatype.
    #[must_use]
    pub fn with(&self, datatype: Datatype) -> Self {
        Self { datatype, shape: self.shape.clone() }
    }

    /// The same datatype with another shape.
    #[must_use]
    pub fn shaped(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self { datatype: self.datatype, shape: shape.into() }
    }

    /// How many elements it has; shapes in a graph are within bounds, so this does not overflow there.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1, |product, dim| product.saturating_mul(*dim))
    }

    /// Bytes of its elements; text counts 16 an element.
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.datatype.size().unwrap_or(16))
    }
}

/// Elements of an array, row-major and cheap to clone.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the datatype of its name")]
pub enum Data {
    Bool(Arc<Vec<bool>>),
    U8(Arc<Vec<u8>>),
    U16(Arc<Vec<u16>>),
    U32(Arc<Vec<u32>>),
    U64(Arc<Vec<u64>>),
    I8(Arc<Vec<i8>>),
    I16(Arc<Vec<i16>>),
    I32(Arc<Vec<i32>>),
    I64(Arc<Vec<i64>>),
    F16(Arc<Vec<f16>>),
    Bf16(Arc<Vec<bf16>>),
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
    Text(Arc<Vec<Vec<u8>>>),
}

/// Runs `$body` with `$items` bound to the elements, whatever their type.
macro_rules! each {
    ($data:expr, $items:ident => $body:expr) => {
        match $data {
            Data::Bool($items) => $body,
            Data::U8($items) => $body,
            Data::U16($items) => $body,
            Data::U32($items) => $body,
            Data::U64($items) => $body,
            Data::I8($items) => $body,
            Data::I16($items) => $body,
            Data::I32($items) => $body,
            Data::I64($items) => $body,
            Data::F16($items) => $body,
            Data::Bf16($items) => $body,
            Data::F32($items) => $body,
            Data::F64($items) => $body,
            Data::Text($items) => $body,
        }
    };
}
pub(crate) use each;

/// A type of elements that arrays hold.
pub trait Element: Clone + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// Its datatype.
    const DATATYPE: Datatype;

    /// Wraps elements.
    fn wrap(items: Vec<Self>) -> Data;

    /// The elements, when they are of this type.
    fn view(data: &Data) -> Option<&[Self]>;

    /// The elements to write to, when they are of this type; copied first when other arrays share them.
    fn view_mut(data: &mut Data) -> Option<&mut [Self]>;
}

macro_rules! element {
    ($($type:ty, $variant:ident, $datatype:ident;)*) => {$(
        impl Element for $type {
            const DATATYPE: Datatype = Datatype::$datatype;

            fn wrap(items: Vec<Self>) -> Data {
                Data::$variant(Arc::new(items))
            }

            fn view(data: &Data) -> Option<&[Self]> {
                if let Data::$variant(items) = data { Some(items) } else { None }
            }

            fn view_mut(data: &mut Data) -> Option<&mut [Self]> {
                if let Data::$variant(items) = data { Some(Arc::make_mut(items).as_mut_slice()) } else { None }
            }
        }
    )*};
}

element! {
    bool, Bool, Bool;
    u8, U8, Uint8;
    u16, U16, Uint16;
    u32, U32, Uint32;
    u64, U64, Uint64;
    i8, I8, Int8;
    i16, I16, Int16;
    i32, I32, Int32;
    i64, I64, Int64;
    f16, F16, Fp16;
    bf16, Bf16, Bf16;
    f32, F32, Fp32;
    f64, F64, Fp64;
    Vec<u8>, Text, Bytes;
}

/// A shape and as many elements.
///
/// Invariant: the product of `shape` is the number of elements in `data`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Data,
}

impl Array {
    /// An array of `shape` with `data`, row-major.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when their sizes differ; [`PlanError::TooLarge`].
    pub fn from_data(shape: impl Into<Vec<usize>>, data: Data) -> Result<Self, PlanError> {
        let shape = shape.into();
        let want = shape::count(&shape)?;
        let got = each!(&data, items => items.len());
        if want != got {
            return Err(PlanError::shape(format!("{got} elements do not make the shape {shape:?}")));
        }
        Ok(Self { shape, data })
    }

    /// An array of `shape` with `items`, row-major.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when their sizes differ; [`PlanError::TooLarge`].
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, items: Vec<T>) -> Result<Self, PlanError> {
        Self::from_data(shape, T::wrap(items))
    }

    /// One element without dimensions.
    pub fn scalar<T: Element>(item: T) -> Self {
        Self { shape: Vec::new(), data: T::wrap(vec![item]) }
    }

    /// A list.
    pub fn list<T: Element>(items: Vec<T>) -> Self {
        Self { shape: vec![items.len()], data: T::wrap(items) }
    }

    /// `shape` full of zeros, `false` or empty texts.
    ///
    /// # Errors
    /// [`PlanError::TooLarge`].
    pub fn zeros(datatype: Datatype, shape: impl Into<Vec<usize>>) -> Result<Self, PlanError> {
        let shape = shape.into();
        let count = shape::count(&shape)?;
        if datatype == Datatype::Bytes {
            return Self::new(shape, vec![Vec::<u8>::new(); count]);
        }
        Self::from_reals(datatype, shape, vec![0.0; count])
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements.
    pub const fn data(&self) -> &Data {
        &self.data
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        each!(&self.data, items => items.len())
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its datatype.
    pub const fn datatype(&self) -> Datatype {
        match self.data {
            Data::Bool(_) => Datatype::Bool,
            Data::U8(_) => Datatype::Uint8,
            Data::U16(_) => Datatype::Uint16,
            Data::U32(_) => Datatype::Uint32,
            Data::U64(_) => Datatype::Uint64,
            Data::I8(_) => Datatype::Int8,
            Data::I16(_) => Datatype::Int16,
            Data::I32(_) => Datatype::Int32,
            Data::I64(_) => Datatype::Int64,
            Data::F16(_) => Datatype::Fp16,
            Data::Bf16(_) => Datatype::Bf16,
            Data::F32(_) => Datatype::Fp32,
            Data::F64(_) => Datatype::Fp64,
            Data::Text(_) => Datatype::Bytes,
        }
    }

    /// Its datatype and shape.
    pub fn fact(&self) -> Fact {
        Fact { datatype: self.datatype(), shape: self.shape.clone() }
    }

    /// Its elements as `T`.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] when they are of another type.
    pub fn view<T: Element>(&self) -> Result<&[T], PlanError> {
        T::view(&self.data).ok_or_else(|| {
            PlanError::datatype(format!(
                "{} where {} is needed",
                self.datatype().as_str(),
                T::DATATYPE.as_str()
            ))
        })
    }

    /// Its elements as `T`; `None` when they are of another type.
    pub fn items<T: Element>(&self) -> Option<&[T]> {
        T::view(&self.data)
    }

    /// Its elements as `T` to write to, copied first when other arrays share them; `None` when they are of another type.
    pub fn items_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        T::view_mut(&mut self.data)
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when the sizes differ.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Self, PlanError> {
        Self::from_data(shape, self.data.clone())
    }

    /// An array of `shape` whose elements are those at `places` of this one, in order.
    ///
    /// # Errors
    /// [`PlanError::Value`] when a place lies outside; [`PlanError::Shape`] when there are too few or too many.
    pub fn pick(
        &self,
        shape: impl Into<Vec<usize>>,
        places: impl IntoIterator<Item = usize>,
    ) -> Result<Self, PlanError> {
        fn pick<T: Element>(items: &[T], places: impl IntoIterator<Item = usize>) -> Result<Data, PlanError> {
            let fault = || PlanError::value("an index lies outside its tensor");
            let picked = places.into_iter().map(|place| items.get(place).cloned().ok_or_else(fault));
            Ok(T::wrap(picked.collect::<Result<_, _>>()?))
        }
        Self::from_data(shape, each!(&self.data, items => pick(items, places))?)
    }

    /// Like [`Self::pick`], with `fill` (one element of the same datatype) where a place is `None`.
    ///
    /// # Errors
    /// As [`Self::pick`]; [`PlanError::Datatype`].
    pub fn pick_or(
        &self,
        fill: &Self,
        shape: impl Into<Vec<usize>>,
        places: impl IntoIterator<Item = Option<usize>>,
    ) -> Result<Self, PlanError> {
        fn pick<T: Element>(
            items: &[T],
            fill: &Array,
            places: impl IntoIterator<Item = Option<usize>>,
        ) -> Result<Data, PlanError> {
            let fault = || PlanError::value("an index lies outside its tensor");
            let fill = fill.view::<T>()?.first().cloned().unwrap_or_default();
            let picked = places.into_iter().map(|place| match place {
                Some(place) => items.get(place).cloned().ok_or_else(fault),
                None => Ok(fill.clone()),
            });
            Ok(T::wrap(picked.collect::<Result<_, _>>()?))
        }
        Self::from_data(shape, each!(&self.data, items => pick(items, fill, places))?)
    }

    /// This array broadcast to `shape`.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when it does not broadcast.
    pub fn broadcast(&self, shape: &[usize]) -> Result<Self, PlanError> {
        if self.shape == shape {
            return Ok(self.clone());
        }
        let steps = shape::broadcast_strides(&self.shape, shape)?;
        let _count = shape::count(shape)?;
        self.pick(shape, Walk::forward(shape, &steps))
    }

    /// Arrays of one datatype, one after the other, as a list.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] when their datatypes differ.
    pub fn chain(arrays: &[&Self]) -> Result<Self, PlanError> {
        fn chain<T: Element>(_: &[T], arrays: &[&Array]) -> Result<Array, PlanError> {
            let mut all = Vec::new();
            for array in arrays {
                all.extend_from_slice(array.view::<T>()?);
            }
            Ok(Array::list(all))
        }
        let first = arrays.first().ok_or_else(|| PlanError::shape("no tensors to join"))?;
        each!(&first.data, items => chain(items, arrays))
    }

    /// The elements as floating-point numbers; exact but for integers above 2^53. `false` is 0 and `true` 1.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] for text.
    #[expect(clippy::cast_precision_loss, reason = "said in the documentation")]
    pub fn reals(&self) -> Result<Vec<f64>, PlanError> {
        Ok(match &self.data {
            Data::Bool(items) => items.iter().map(|item| f64::from(u8::from(*item))).collect(),
            Data::U8(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::U16(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::U32(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::U64(items) => items.iter().map(|item| *item as f64).collect(),
            Data::I8(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::I16(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::I32(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::I64(items) => items.iter().map(|item| *item as f64).collect(),
            Data::F16(items) => items.iter().map(|item| item.to_f64()).collect(),
            Data::Bf16(items) => items.iter().map(|item| item.to_f64()).collect(),
            Data::F32(items) => items.iter().map(|item| f64::from(*item)).collect(),
            Data::F64(items) => items.to_vec(),
            Data::Text(_) => return Err(PlanError::datatype("text where numbers are needed")),
        })
    }

    /// The elements as whole numbers, fractions cut off, numbers beyond 128 bits clamped. `true` is 1.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] for text.
    #[expect(clippy::cast_possible_truncation, reason = "said in the documentation")]
    pub fn wholes(&self) -> Result<Vec<i128>, PlanError> {
        Ok(match &self.data {
            Data::Bool(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::U8(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::U16(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::U32(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::U64(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::I8(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::I16(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::I32(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::I64(items) => items.iter().map(|item| i128::from(*item)).collect(),
            Data::F16(_) | Data::Bf16(_) | Data::F32(_) | Data::F64(_) => {
                self.reals()?.into_iter().map(|item| item as i128).collect()
            }
            Data::Text(_) => return Err(PlanError::datatype("text where numbers are needed")),
        })
    }

    /// The elements as 64-bit integers, clamped where they are larger.
    ///
    /// # Errors
    /// [`PlanError::Datatype`] for text.
    pub fn ints(&self) -> Result<Vec<i64>, PlanError> {
        if let Data::I64(items) = &self.data {
            return Ok(items.to_vec());
        }
        let clamp = |item: i128| i64::try_from(item).unwrap_or(if item < 0 { i64::MIN } else { i64::MAX });
        Ok(self.wholes()?.into_iter().map(clamp).collect())
    }

    /// The first element as a floating-point number.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when there is none; [`PlanError::Datatype`] for text.
    pub fn real(&self) -> Result<f64, PlanError> {
        self.reals()?
            .first()
            .copied()
            .ok_or_else(|| PlanError::shape("an empty tensor where a number is needed"))
    }

    /// The first element as an integer.
    ///
    /// # Errors
    /// [`PlanError::Shape`] when there is none; [`PlanError::Datatype`] for text.
    pub fn int(&self) -> Result<i64, PlanError> {
        self.ints()?
            .first()
            .copied()
            .ok_or_else(|| PlanError::shape("an empty tensor where a number is needed"))
    }

    /// An array of `datatype` from floating-point numbers: rounded to nearest for floats; for integers fractions are
    /// cut off and too large numbers clamped.
    ///
    /// # Errors
    /// [`PlanError::Shape`]; [`PlanError::Datatype`] for text.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "said in the documentation")]
    pub fn from_reals(
        datatype: Datatype,
        shape: impl Into<Vec<usize>>,
        items: Vec<f64>,
    ) -> Result<Self, PlanError> {
        let items = items.into_iter();
        let data = match datatype {
            Datatype::Bool => bool::wrap(items.map(|item| item != 0.0).collect()),
            Datatype::Uint8 => u8::wrap(items.map(|item| item as u8).collect()),
            Datatype::Uint16 => u16::wrap(items.map(|item| item as u16).collect()),
            Datatype::Uint32 => u32::wrap(items.map(|item| item as u32).collect()),
            Datatype::Uint64 => u64::wrap(items.map(|item| item as u64).collect()),
            Datatype::Int8 => i8::wrap(items.map(|item| item as i8).collect()),
            Datatype::Int16 => i16::wrap(items.map(|item| item as i16).collect()),
            Datatype::Int32 => i32::wrap(items.map(|item| item as i32).collect()),
            Datatype::Int64 => i64::wrap(items.map(|item| item as i64).collect()),
            Datatype::Fp16 => f16::wrap(items.map(f16::from_f64).collect()),
            Datatype::Bf16 => bf16::wrap(items.map(bf16::from_f64).collect()),
            Datatype::Fp32 => f32::wrap(items.map(|item| item as f32).collect()),
            Datatype::Fp64 => f64::wrap(items.collect()),
            Datatype::Bytes => return Err(PlanError::datatype("numbers where text is needed")),
        };
        Self::from_data(shape, data)
    }

    /// An array of `datatype` from whole numbers; integers wrap around as in two's complement.
    ///
    /// # Errors
    /// [`PlanError::Shape`]; [`PlanError::Datatype`] for text.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "said in the documentation"
    )]
    pub fn from_wholes(
        datatype: Datatype,
        shape: impl Into<Vec<usize>>,
        items: Vec<i128>,
    ) -> Result<Self, PlanError> {
        let items = items.into_iter();
        let data = match datatype {
            Datatype::Bool => bool::wrap(items.map(|item| item != 0).collect()),
            Datatype::Uint8 => u8::wrap(items.map(|item| item as u8).collect()),
            Datatype::Uint16 => u16::wrap(items.map(|item| item as u16).collect()),
            Datatype::Uint32 => u32::wrap(items.map(|item| item as u32).collect()),
            Datatype::Uint64 => u64::wrap(items.map(|item| item as u64).collect()),
            Datatype::Int8 => i8::wrap(items.map(|item| item as i8).collect()),
            Datatype::Int16 => i16::wrap(items.map(|item| item as i16).collect()),
            Datatype::Int32 => i32::wrap(items.map(|item| item as i32).collect()),
            Datatype::Int64 => i64::wrap(items.map(|item| item as i64).collect()),
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
                return Self::from_reals(datatype, shape, items.map(|item| item as f64).collect());
            }
            Datatype::Bytes => return Err(PlanError::datatype("numbers where text is needed")),
        };
        Self::from_data(shape, data)
    }
}

/// Whether elements of a datatype are floating-point numbers.
pub const fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// Whether elements of a datatype are integers; booleans are not.
pub const fn is_int(datatype: Datatype) -> bool {
    !is_float(datatype) && !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}
