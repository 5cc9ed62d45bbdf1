//! Protobuf's wire format, read in place.
//!
//! In: bytes. Out: numbered fields that borrow from them and know where in the file they stand. Copies nothing and
//! allocates nothing; refuses groups, field number 0, numbers that overflow and lengths that leave the message.
//!
//! Source: protobuf.dev, "Encoding".

use std::ops::Range;

/// A message, or any other run of bytes, and where in the file it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    /// Where in the file the field's tag stands.
    pub(crate) at: usize,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Span<'a>),
}

/// Bytes that are no protobuf message of the kind expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {at}")]
pub struct WireError {
    pub(crate) fault: Fault,
    pub(crate) at: usize,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the file ends inside a field")]
    Cut,
    #[error("a number of more than 64 bits")]
    Overflow,
    #[error("a field with number 0 or above 536,870,911")]
    Number,
    #[error("a field of a kind that ONNX does not use")]
    Kind,
    #[error("a field of another kind than ONNX says")]
    Type,
    #[error("a field that may stand once stands twice")]
    Twice,
    #[error("text that is not UTF-8")]
    Text,
    #[error("messages nested too deep")]
    Depth,
}

impl<'a> Span<'a> {
    /// The whole file.
    pub(crate) const fn file(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The fields of this message, in the order in which they stand.
    pub(crate) const fn fields(self) -> Fields<'a> {
        Fields { rest: self }
    }

    /// Where in the file the bytes lie.
    pub(crate) const fn range(self) -> Range<usize> {
        self.at..self.at + self.bytes.len()
    }

    /// The bytes as text.
    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes).map_err(|_| WireError { fault: Fault::Text, at: self.at })
    }

    /// The numbers of a packed field.
    pub(crate) fn varints(self) -> impl Iterator<Item = Result<u64, WireError>> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.bytes.is_empty() {
                return None;
            }
            let number = rest.varint();
            if number.is_err() {
                rest.bytes = &[];
            }
            Some(number)
        })
    }

    fn take(&mut self, count: usize) -> Result<Self, WireError> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or_else(|| self.fault(Fault::Cut))?;
        let taken = Self { bytes: head, at: self.at };
        *self = Self { bytes: rest, at: self.at + count };
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let fault = self.fault(Fault::Cut);
        self.take(N)?.bytes.try_into().map_err(|_| fault)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0_u64;
        for (position, byte) in self.bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return Err(self.fault(Fault::Overflow));
            }
            number |= bits << (7 * position);
            if byte & 0x80 == 0 {
                let _number = self.take(position + 1)?;
                return Ok(number);
            }
        }
        Err(self.fault(if self.bytes.len() < 10 { Fault::Cut } else { Fault::Overflow }))
    }

    const fn fault(&self, fault: Fault) -> WireError {
        WireError { fault, at: self.at }
    }
}

/// The fields of a message; ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: Span<'a>,
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let at = self.rest.at;
        let tag = self.rest.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(WireError { fault: Fault::Number, at })?;
        let value = match tag & 7 {
            0 => Value::Varint(self.rest.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.rest.array()?)),
            2 => {
                let length = self.rest.varint()?;
                let length = usize::try_from(length).map_err(|_| WireError { fault: Fault::Cut, at })?;
                Value::Bytes(self.rest.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.rest.array()?)),
            _ => return Err(WireError { fault: Fault::Kind, at }),
        };
        Ok(Field { number, value, at })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest.bytes = &[];
        }
        Some(field)
    }
}

impl<'a> Field<'a> {
    /// The field as a number.
    pub(crate) const fn varint(self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(number) => Ok(number),
            Value::Fixed32(_) | Value::Fixed64(_) | Value::Bytes(_) => Err(self.fault(Fault::Type)),
        }
    }

    /// The field as bytes or a message.
    pub(crate) const fn bytes(self) -> Result<Span<'a>, WireError> {
        match self.value {
            Value::Bytes(span) => Ok(span),
            Value::Varint(_) | Value::Fixed32(_) | Value::Fixed64(_) => Err(self.fault(Fault::Type)),
        }
    }

    /// The field as text.
    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        self.bytes()?.text()
    }

    /// Puts `value` into a slot that may be filled once; protobuf readers merge or overwrite, and disagree.
    pub(crate) fn once<T>(self, slot: &mut Option<T>, value: T) -> Result<(), WireError> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.fault(Fault::Twice)),
        }
    }

    pub(crate) const fn fault(&self, fault: Fault) -> WireError {
        WireError { fault, at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_are_refused_where_they_break() {
        for (bytes, want) in [
            (&b"\x08"[..], WireError { fault: Fault::Cut, at: 1 }),
            (b"\x00\x01", WireError { fault: Fault::Number, at: 0 }),
            (b"\x0b", WireError { fault: Fault::Kind, at: 0 }),
            (b"\x08\x01\x0a\x05ab", WireError { fault: Fault::Cut, at: 4 }),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", WireError { fault: Fault::Overflow, at: 1 }),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", WireError { fault: Fault::Cut, at: 11 }),
            (b"\x0d\x01\x02", WireError { fault: Fault::Cut, at: 1 }),
        ] {
            let got = Span::file(bytes).fields().find_map(Result::err);
            assert_eq!(got, Some(want), "{bytes:x?}");
        }
    }

    #[test]
    fn fields_know_where_they_stand() {
        let bytes = b"\x08\x96\x01\x12\x03abc";
        let fields: Vec<_> = Span::file(bytes).fields().map(Result::unwrap).collect();
        assert_eq!(fields[0].varint(), Ok(150));
        assert_eq!(fields[1].text(), Ok("abc"));
        assert_eq!(fields[1].bytes().unwrap().range(), 5..8);
        assert_eq!(fields[1].varint(), Err(WireError { fault: Fault::Type, at: 3 }));
    }
}
