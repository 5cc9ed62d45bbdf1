//! Reads strict JSON by recursive descent, after its nesting has been counted without recursion.

use std::collections::BTreeMap;

use super::{MAX_DEPTH, MAX_INT, Value};
use crate::{Cause, Reject, reject::quoted};

pub(super) fn read(bytes: &[u8]) -> Result<Value, Reject> {
    check_depth(bytes)?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(Reject::new(Cause::Json, "the JSON text begins with a byte-order mark"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Reject::new(Cause::Json, format!("the JSON text is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value()?;
    reader.skip_blanks();
    if reader.at < text.len() {
        return Err(reader.malformed("something stands after the end"));
    }
    Ok(value)
}

/// Counts nesting outside strings; needs no memory and no recursion.
fn check_depth(bytes: &[u8]) -> Result<(), Reject> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let message = format!("objects and lists are nested more than {MAX_DEPTH} deep");
                    return Err(Reject::new(Cause::Depth, message));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

struct Reader<'a> {
    text: &'a str,
    // Invariant: at most `text.len()`, and on a character boundary.
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self, what: &str) -> Reject {
        Reject::new(Cause::Json, format!("malformed JSON at byte {}: {what}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Reject> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.malformed(&format!("`{}` is missing", char::from(byte))))
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Recurses at most [`MAX_DEPTH`] deep, since the depth was counted before.
    fn value(&mut self) -> Result<Value, Reject> {
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.map(),
            Some(b'[') => self.list(),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.malformed("a value is missing")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Reject> {
        if self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.malformed("a value is missing"))
        }
    }

    fn list(&mut self) -> Result<Value, Reject> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_blanks();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            self.expect(b',')?;
        }
    }

    fn map(&mut self) -> Result<Value, Reject> {
        self.expect(b'{')?;
        let mut fields = BTreeMap::new();
        self.skip_blanks();
        if self.take(b'}') {
            return Ok(Value::Map(fields));
        }
        loop {
            self.skip_blanks();
            let key = self.string()?;
            self.skip_blanks();
            self.expect(b':')?;
            if fields.contains_key(&key) {
                let message = format!("the key {} stands twice in an object", quoted(&key));
                return Err(Reject::new(Cause::DuplicateKey, message));
            }
            let value = self.value()?;
            fields.insert(key, value);
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(Value::Map(fields));
            }
            self.expect(b',')?;
        }
    }

    fn number(&mut self) -> Result<Value, Reject> {
        let start = self.at;
        let negative = self.take(b'-');
        let mut magnitude = Some(0_i64);
        let first = self.peek();
        let digits = self.at;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            magnitude = magnitude
                .and_then(|value| value.checked_mul(10)?.checked_add(i64::from(digit - b'0')))
                .filter(|value| *value <= MAX_INT);
            self.at += 1;
        }
        if self.at == digits || (first == Some(b'0') && self.at > digits + 1) {
            return Err(self.malformed("a number is malformed"));
        }
        let refuse = |what: &str| {
            Reject::new(
                Cause::Number,
                format!("the number at byte {start} {what}; numbers are plain integers"),
            )
        };
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(refuse("has a fraction or an exponent"));
        }
        match magnitude {
            None => Err(refuse("lies beyond 2^53 - 1")),
            Some(0) if negative => Err(refuse("is -0")),
            Some(value) => Ok(Value::Int(if negative { -value } else { value })),
        }
    }

    fn string(&mut self) -> Result<String, Reject> {
        self.expect(b'"')?;
        let mut string = String::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count();
            string.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.at += 1;
                    string.push(self.escape()?);
                }
                Some(_) => return Err(self.malformed("a control character stands in a string")),
                None => return Err(self.malformed("a string has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Reject> {
        let escaped = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.malformed("an escape is malformed")),
        };
        self.at += 1;
        Ok(escaped)
    }

    fn unicode(&mut self) -> Result<char, Reject> {
        let first = self.four_digits()?;
        let scalar = if (0xd800..0xdc00).contains(&first) {
            if !(self.take(b'\\') && self.take(b'u')) {
                return Err(self.malformed("a surrogate stands alone"));
            }
            let second = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.malformed("a surrogate stands alone"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(scalar).ok_or_else(|| self.malformed("a surrogate stands alone"))
    }

    fn four_digits(&mut self) -> Result<u32, Reject> {
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = digits.ok_or_else(|| self.malformed("an escape is malformed"))?;
        self.at += 4;
        Ok(value)
    }
}
