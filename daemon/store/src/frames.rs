//! Bytes in frames: how logs find their records again after a power cut.
//!
//! A frame is a 4-byte mark, the body's length and the CRC32C of length and body (both `u32`, little-endian), then
//! the body. In: the bytes of a file. Out: the frames, and where bytes lie between them that are none. Never
//! trusts a length before its check sum.

/// Starts each frame, so that a reader can find the next one behind damage.
const MARK: [u8; 4] = [0xA9, 0xFE, b'a', b'f'];

/// Bytes before the body.
pub(crate) const OVERHEAD: usize = 12;

/// Most bytes of a body: 16 MiB.
pub(crate) const MAX_BODY: usize = 16 << 20;

/// Appends the frame of `body` to `out`; `None`, and nothing appended, when it is longer than [`MAX_BODY`].
pub(crate) fn encode(body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY)?;
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum(len, body).to_le_bytes());
    out.extend_from_slice(body);
    Some(())
}

fn checksum(len: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), body)
}

/// The body of the frame that `bytes` start with.
pub(crate) fn decode(bytes: &[u8]) -> Option<&[u8]> {
    let (mark, rest) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    let body = rest.get(..usize::try_from(len).ok().filter(|len| *len <= MAX_BODY)?)?;
    (*mark == MARK && checksum(len, body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// What a file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A whole frame from byte `offset`.
    Frame { offset: usize, body: &'a [u8] },
    /// Bytes from `offset` to `end` that are no frame.
    Bad { offset: usize, end: usize },
}

/// Walks the pieces of `bytes` in order.
#[derive(Debug)]
pub(crate) struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    pub(crate) const fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let offset = self.at;
        if let Some(body) = decode(rest) {
            self.at += OVERHEAD + body.len();
            return Some(Piece::Frame { offset, body });
        }
        let found = rest
            .windows(MARK.len())
            .enumerate()
            .skip(1)
            .filter(|(_, window)| *window == MARK)
            .find_map(|(at, _)| decode(rest.get(at..)?).map(|_| at));
        self.at = found.map_or(self.bytes.len(), |at| offset + at);
        Some(Piece::Bad { offset, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bodies: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for body in bodies {
            encode(body, &mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn frames_behind_damage_are_found_again() {
        let mut bytes = frames(&[b"one", b"two", b"three"]);
        bytes[OVERHEAD + 3 + OVERHEAD] ^= 1;
        let pieces: Vec<_> = Pieces::of(&bytes).collect();
        assert_eq!(
            pieces,
            [
                Piece::Frame { offset: 0, body: b"one" },
                Piece::Bad { offset: 15, end: 30 },
                Piece::Frame { offset: 30, body: b"three" },
            ]
        );
    }

    #[test]
    fn every_cut_of_the_last_frame_leaves_the_ones_before() {
        let bytes = frames(&[b"one", b"two"]);
        for cut in 16..bytes.len() {
            let pieces: Vec<_> = Pieces::of(&bytes[..cut]).collect();
            assert_eq!(
                pieces,
                [Piece::Frame { offset: 0, body: b"one" }, Piece::Bad { offset: 15, end: cut }]
            );
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused() {
        assert_eq!(encode(&vec![0; MAX_BODY + 1], &mut Vec::new()), None);
    }
}
