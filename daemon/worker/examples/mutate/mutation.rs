//! Mutations that know protobuf: fields are changed, doubled, dropped and swapped, and lengths stay right, so that
//! most cases pass the outer layers and reach the operators.

/// Draws and applies mutations; the same seed gives the same ones.
pub(crate) struct Mutator(u64);

/// A field of a message.
#[derive(Clone)]
enum Field {
    Varint(u64, u64),
    Fixed(u64, Vec<u8>),
    Bytes(u64, Vec<u8>),
    Message(u64, Vec<Self>),
}

/// Values that break things.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    64,
    255,
    1_000,
    65_536,
    1 << 31,
    (1 << 31) - 1,
    1 << 40,
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    4_294_967_297,
];

/// Operators that a node is turned into.
const OPERATORS: [&str; 16] = [
    "Add",
    "MatMul",
    "Gather",
    "Reshape",
    "Concat",
    "Transpose",
    "Slice",
    "Conv",
    "MaxPool",
    "Softmax",
    "Resize",
    "Expand",
    "Tile",
    "LSTM",
    "Range",
    "NoSuchOperator",
];

const MAX_DEPTH: usize = 12;

impl Mutator {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or_default()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A file with one to four mutations.
    pub(crate) fn mutate(&mut self, file: &[u8]) -> Vec<u8> {
        if self.below(10) == 0 {
            return self.flip(file);
        }
        let Some(mut fields) = parse(file, 0) else { return self.flip(file) };
        let strings = strings(&fields);
        for _ in 0..=self.below(4) {
            self.change(&mut fields, &strings);
        }
        write(&fields)
    }

    /// Changes bytes, or cuts the file.
    fn flip(&mut self, file: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        if self.below(4) == 0 {
            file.truncate(self.below(file.len()));
        }
        for _ in 0..=self.below(8) {
            let at = self.below(file.len());
            let byte = self.next().to_le_bytes();
            if let (Some(target), [byte, ..]) = (file.get_mut(at), byte) {
                *target = byte;
            }
        }
        file
    }

    /// Changes a field drawn from all that there are, however deep.
    fn change(&mut self, fields: &mut Vec<Field>, strings: &[Vec<u8>]) {
        let mut skip = self.below(count(fields));
        let mut at = 0;
        for (position, field) in fields.iter_mut().enumerate() {
            at = position;
            let Some(below) = skip.checked_sub(1) else { break };
            skip = below;
            if let Field::Message(_, inner) = field {
                let held = count(inner);
                if skip < held {
                    return self.change(inner, strings);
                }
                skip -= held;
            }
        }
        if fields.is_empty() {
            return;
        }
        match self.below(24) {
            0 => {
                fields.remove(at);
                return;
            }
            1 => {
                let copy = fields.get(at).cloned();
                fields.extend(copy);
                return;
            }
            2 => {
                let other = self.below(fields.len());
                fields.swap(at, other);
                return;
            }
            _ => {}
        }
        match fields.get_mut(at) {
            Some(Field::Varint(_, value)) => {
                let drawn = self.next();
                *value = match self.below(4) {
                    0 => value.wrapping_add(1),
                    1 => value.wrapping_sub(1),
                    2 => drawn,
                    _ => self.pick(&NUMBERS).copied().unwrap_or_default(),
                };
            }
            Some(Field::Fixed(_, bytes)) => {
                let drawn = self.next().to_le_bytes();
                bytes.iter_mut().zip(drawn).for_each(|(byte, drawn)| *byte = drawn);
            }
            Some(Field::Bytes(_, bytes)) => *bytes = self.other_bytes(bytes, strings),
            Some(Field::Message(_, inner)) => self.change(inner, strings),
            None => {}
        }
    }

    fn other_bytes(&mut self, bytes: &[u8], strings: &[Vec<u8>]) -> Vec<u8> {
        match self.below(6) {
            0 | 1 => self.pick(strings).cloned().unwrap_or_default(),
            2 => self.pick(&OPERATORS).map_or_else(Vec::new, |name| name.as_bytes().to_vec()),
            3 => bytes.get(..self.below(bytes.len())).unwrap_or_default().to_vec(),
            4 => bytes.repeat(2),
            _ => self.flip(if bytes.is_empty() { b"x" } else { bytes }),
        }
    }
}

/// Reads a message; bytes that could be a message are taken as one, unless they look like text.
fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = key >> 3;
        if number == 0 || number > 1_000 {
            return None;
        }
        fields.push(match key & 7 {
            0 => Field::Varint(number, varint(&mut bytes)?),
            1 => Field::Fixed(number, take(&mut bytes, 8)?),
            5 => Field::Fixed(number, take(&mut bytes, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                let text = inner.iter().all(u8::is_ascii_graphic);
                match parse(&inner, depth + 1) {
                    Some(message) if !text && inner.len() < 1 << 16 || depth == 0 && length > 0 => {
                        Field::Message(number, message)
                    }
                    _ => Field::Bytes(number, inner),
                }
            }
            _ => return None,
        });
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take(bytes: &mut &[u8], length: usize) -> Option<Vec<u8>> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken.to_vec())
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        match field {
            Field::Varint(number, value) => {
                put(&mut out, number << 3);
                put(&mut out, *value);
            }
            Field::Fixed(number, bytes) => {
                put(&mut out, number << 3 | if bytes.len() == 8 { 1 } else { 5 });
                out.extend(bytes);
            }
            Field::Bytes(number, bytes) => put_bytes(&mut out, *number, bytes),
            Field::Message(number, inner) => put_bytes(&mut out, *number, &write(inner)),
        }
    }
    out
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put(out, number << 3 | 2);
    put(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

/// How many fields there are in all.
fn count(fields: &[Field]) -> usize {
    let held = |field: &Field| match field {
        Field::Message(_, inner) => 1 + count(inner),
        Field::Bytes(..) | Field::Varint(..) | Field::Fixed(..) => 1,
    };
    fields.iter().map(held).sum()
}

/// The short texts of a file: names of tensors, nodes and operators.
fn strings(fields: &[Field]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for field in fields {
        match field {
            Field::Bytes(_, bytes) if bytes.len() < 64 => found.push(bytes.clone()),
            Field::Message(_, inner) => found.extend(strings(inner)),
            Field::Bytes(..) | Field::Varint(..) | Field::Fixed(..) => {}
        }
    }
    found
}
