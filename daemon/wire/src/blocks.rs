//! Requests for blocks and the blocks themselves: small binary messages, each field bounded when it is read.
//!
//! In: the payload of a message. Out: a [`BlockRequest`] or a [`Block`]. Refuses everything that is not exactly one
//! message of version 1: unknown versions and kinds, lengths over the limits, trailing bytes, blocks whose checksum
//! does not match. Numbers are big-endian.
//!
//! A block is a byte range of an object. An object is the envelope of a bundle's manifest, named by the digest of
//! its payload since that is all that a desired document tells, or a chunk, named by its digest.

use agentd_types::{ByteCount, Code, Coded, Digest};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// A block carries at most this many bytes.
pub const MAX_BLOCK_BYTES: u32 = 128 << 10;

/// A chunk is at most this long.
pub const MAX_CHUNK_BYTES: u32 = 4 << 20;

/// The envelope of a manifest is at most this long.
pub const MAX_MANIFEST_BYTES: u32 = 8 << 20;

/// A request names at most this many ranges.
pub const MAX_RANGES: usize = 256;

/// A request lets at most this many bytes be sent.
pub const MAX_CREDIT: ByteCount = ByteCount(8 << 20);

/// Bytes that a block's message has beside the block: a header and a checksum at the end.
pub const BLOCK_OVERHEAD_BYTES: usize = 96;

const VERSION: u8 = 1;
const REQUEST: u8 = b'Q';
const DATA: u8 = b'B';
const REQUEST_HEADER_BYTES: usize = 48;
const RANGE_BYTES: usize = 41;

/// What a range is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// The envelope of the manifest whose payload has this digest.
    Manifest(Digest),
    /// The chunk with this digest.
    Chunk(Digest),
}

impl Object {
    /// The longest that such an object may be, in bytes.
    pub const fn max_bytes(self) -> u32 {
        match self {
            Self::Manifest(_) => MAX_MANIFEST_BYTES,
            Self::Chunk(_) => MAX_CHUNK_BYTES,
        }
    }

    /// The digest that names it.
    pub const fn digest(self) -> Digest {
        match self {
            Self::Manifest(digest) | Self::Chunk(digest) => digest,
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Manifest(_) => 0,
            Self::Chunk(_) => 1,
        }
    }

    const fn from_tag(tag: u8, digest: Digest) -> Option<Self> {
        match tag {
            0 => Some(Self::Manifest(digest)),
            1 => Some(Self::Chunk(digest)),
            _ => None,
        }
    }
}

/// Bytes of an object that a device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Of what.
    pub object: Object,
    /// The first byte.
    pub offset: u32,
    /// How many bytes, at least 1, at most [`MAX_CHUNK_BYTES`]; of a manifest the server sends what is there.
    pub length: u32,
}

/// What a device asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    /// Chosen by the device; comes back in every block, so that answers to an older transfer can be told.
    pub transfer: u32,
    /// Counts the requests of a transfer.
    pub number: u32,
    /// The bundle that the ranges belong to: the digest of its manifest's payload.
    pub bundle: Digest,
    /// Bytes that may be sent in answer to this request; what lies beyond is not sent.
    pub credit: u32,
    /// What is wanted, in order; 1 to [`MAX_RANGES`].
    pub ranges: Vec<Range>,
}

/// Whether a block brings bytes or tells why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Here they are.
    Data,
    /// The server has no such object, or the range lies outside of it.
    Missing,
    /// The server has too much to do; ask again later.
    Busy,
}

/// One block, or the word that there is none.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// The transfer that asked.
    pub transfer: u32,
    /// The request that asked.
    pub number: u32,
    /// Whether there are bytes.
    pub status: Status,
    /// The bundle that the request named.
    pub bundle: Digest,
    /// Of what this is a part.
    pub object: Object,
    /// The first byte.
    pub offset: u32,
    /// Bytes of the whole object; 0 when it is missing.
    pub object_bytes: u32,
    /// [`edition_of`] the whole envelope for a manifest, so that blocks of two envelopes are not mixed; 0 for a chunk.
    pub edition: u32,
    /// The bytes; none unless the status is [`Status::Data`].
    pub bytes: Bytes,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block")
            .field("transfer", &self.transfer)
            .field("number", &self.number)
            .field("status", &self.status)
            .field("object", &self.object)
            .field("offset", &self.offset)
            .field("object_bytes", &self.object_bytes)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A message that is not a request for blocks or not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BadBlock {
    #[error("the message is cut short or has bytes left over")]
    Length,
    #[error("the message has another version or kind")]
    Version,
    #[error("the request names {0} ranges, not 1 to 256")]
    Ranges(usize),
    #[error("a range, an offset or a length is out of bounds")]
    Bounds,
    #[error("the request lets 0 bytes or more than 8 MiB be sent")]
    Credit,
    #[error("the block's checksum does not match")]
    Checksum,
}

impl Coded for BadBlock {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Length => "block.length",
            Self::Version => "block.version",
            Self::Ranges(_) => "block.ranges",
            Self::Bounds => "block.bounds",
            Self::Credit => "block.credit",
            Self::Checksum => "block.checksum",
        })
    }
}

impl Range {
    fn check(self) -> Result<Self, BadBlock> {
        let end = u64::from(self.offset) + u64::from(self.length);
        if self.length == 0 || self.length > MAX_CHUNK_BYTES || end > u64::from(self.object.max_bytes()) {
            return Err(BadBlock::Bounds);
        }
        Ok(self)
    }
}

impl BlockRequest {
    /// The message.
    ///
    /// # Errors
    /// When it holds more than the limits allow.
    pub fn encode(&self) -> Result<Bytes, BadBlock> {
        self.check()?;
        let count = u16::try_from(self.ranges.len()).map_err(|_| BadBlock::Ranges(self.ranges.len()))?;
        let mut out = BytesMut::with_capacity(REQUEST_HEADER_BYTES + self.ranges.len() * RANGE_BYTES);
        out.put_u8(VERSION);
        out.put_u8(REQUEST);
        out.put_u16(count);
        out.put_u32(self.transfer);
        out.put_u32(self.number);
        out.put_u32(self.credit);
        out.put_slice(self.bundle.as_bytes());
        for range in &self.ranges {
            out.put_u8(range.object.tag());
            out.put_slice(range.object.digest().as_bytes());
            out.put_u32(range.offset);
            out.put_u32(range.length);
        }
        Ok(out.freeze())
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is not exactly one request within the limits.
    pub fn decode(mut message: &[u8]) -> Result<Self, BadBlock> {
        let count = match message {
            [VERSION, REQUEST, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            [] | [_] | [VERSION, REQUEST, ..] => return Err(BadBlock::Length),
            _ => return Err(BadBlock::Version),
        };
        if !(1..=MAX_RANGES).contains(&count) {
            return Err(BadBlock::Ranges(count));
        }
        if message.len() != REQUEST_HEADER_BYTES + count * RANGE_BYTES {
            return Err(BadBlock::Length);
        }
        message.advance(4);
        let (transfer, number, credit) = (message.get_u32(), message.get_u32(), message.get_u32());
        let bundle = take_digest(&mut message)?;
        let ranges = (0..count).map(|_| take_range(&mut message)).collect::<Result<_, _>>()?;
        let request = Self { transfer, number, bundle, credit, ranges };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), BadBlock> {
        if !(1..=MAX_RANGES).contains(&self.ranges.len()) {
            return Err(BadBlock::Ranges(self.ranges.len()));
        }
        if self.credit == 0 || u64::from(self.credit) > MAX_CREDIT.0 {
            return Err(BadBlock::Credit);
        }
        self.ranges.iter().try_for_each(|range| range.check().map(drop))
    }
}

impl Block {
    /// The message.
    ///
    /// # Errors
    /// When it holds more than the limits allow.
    pub fn encode(&self) -> Result<Bytes, BadBlock> {
        self.check()?;
        let length = u32::try_from(self.bytes.len()).map_err(|_| BadBlock::Bounds)?;
        let mut out = BytesMut::with_capacity(BLOCK_OVERHEAD_BYTES + self.bytes.len());
        out.put_u8(VERSION);
        out.put_u8(DATA);
        out.put_u8(self.object.tag());
        out.put_u8(match self.status {
            Status::Data => 0,
            Status::Missing => 1,
            Status::Busy => 2,
        });
        out.put_u32(self.transfer);
        out.put_u32(self.number);
        out.put_u32(self.offset);
        out.put_u32(length);
        out.put_u32(self.object_bytes);
        out.put_slice(self.bundle.as_bytes());
        out.put_slice(self.object.digest().as_bytes());
        out.put_u32(self.edition);
        out.put_slice(&self.bytes);
        let sum = crc32c::crc32c(&out);
        out.put_u32(sum);
        Ok(out.freeze())
    }

    /// Reads a message; the bytes of the block are shared with it, not copied.
    ///
    /// # Errors
    /// When it is not exactly one block within the limits, or its checksum does not match.
    pub fn decode(message: &Bytes) -> Result<Self, BadBlock> {
        let (object_tag, status) = match &**message {
            [VERSION, DATA, tag, status, ..] => (*tag, *status),
            [] | [_] | [VERSION, DATA, ..] => return Err(BadBlock::Length),
            _ => return Err(BadBlock::Version),
        };
        if message.len() < BLOCK_OVERHEAD_BYTES
            || message.len() > BLOCK_OVERHEAD_BYTES + MAX_BLOCK_BYTES as usize
        {
            return Err(BadBlock::Length);
        }
        let mut body = message.clone();
        let mut sum = body.split_off(body.len() - 4);
        if crc32c::crc32c(&body) != sum.get_u32() {
            return Err(BadBlock::Checksum);
        }
        body.advance(4);
        let (transfer, number, offset) = (body.get_u32(), body.get_u32(), body.get_u32());
        let (length, object_bytes) = (body.get_u32(), body.get_u32());
        let bundle = take_digest(&mut body)?;
        let object = Object::from_tag(object_tag, take_digest(&mut body)?).ok_or(BadBlock::Version)?;
        let edition = body.get_u32();
        if body.len() != length as usize {
            return Err(BadBlock::Length);
        }
        let status = match status {
            0 => Status::Data,
            1 => Status::Missing,
            2 => Status::Busy,
            _ => return Err(BadBlock::Version),
        };
        let block =
            Self { transfer, number, status, bundle, object, offset, object_bytes, edition, bytes: body };
        block.check()?;
        Ok(block)
    }

    fn check(&self) -> Result<(), BadBlock> {
        let end = u64::from(self.offset) + self.bytes.len() as u64;
        let fits = match self.status {
            Status::Data => {
                (1..=MAX_BLOCK_BYTES as usize).contains(&self.bytes.len())
                    && end <= u64::from(self.object_bytes)
                    && self.object_bytes <= self.object.max_bytes()
            }
            Status::Missing | Status::Busy => {
                self.bytes.is_empty() && self.offset <= self.object.max_bytes() && self.object_bytes == 0
            }
        };
        if fits { Ok(()) } else { Err(BadBlock::Bounds) }
    }
}

/// The edition of a manifest's envelope: tells two envelopes with the same payload apart.
pub fn edition_of(envelope: &[u8]) -> u32 {
    crc32c::crc32c(envelope)
}

fn take_digest(from: &mut impl Buf) -> Result<Digest, BadBlock> {
    let mut bytes = [0; 32];
    from.try_copy_to_slice(&mut bytes).map_err(|_| BadBlock::Length)?;
    Ok(Digest::from_bytes(bytes))
}

fn take_range(from: &mut &[u8]) -> Result<Range, BadBlock> {
    let tag = from.get_u8();
    let object = Object::from_tag(tag, take_digest(from)?).ok_or(BadBlock::Version)?;
    Range { object, offset: from.get_u32(), length: from.get_u32() }.check()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn object() -> impl Strategy<Value = Object> {
        (any::<[u8; 32]>(), any::<bool>()).prop_map(|(bytes, chunk)| {
            let digest = Digest::from_bytes(bytes);
            if chunk { Object::Chunk(digest) } else { Object::Manifest(digest) }
        })
    }

    fn range() -> impl Strategy<Value = Range> {
        (object(), 0..MAX_CHUNK_BYTES)
            .prop_flat_map(|(object, offset)| (Just(object), Just(offset), 1..=MAX_CHUNK_BYTES - offset))
            .prop_map(|(object, offset, length)| Range { object, offset, length })
    }

    fn request() -> impl Strategy<Value = BlockRequest> {
        (any::<u32>(), any::<u32>(), any::<[u8; 32]>(), 1_u32..=8 << 20, vec(range(), 1..=MAX_RANGES))
            .prop_map(|(transfer, number, bundle, credit, ranges)| BlockRequest {
                transfer,
                number,
                bundle: Digest::from_bytes(bundle),
                credit,
                ranges,
            })
    }

    fn block() -> impl Strategy<Value = Block> {
        let bytes = prop_oneof![vec(any::<u8>(), 1..300), Just(vec![7; MAX_BLOCK_BYTES as usize])];
        (any::<u32>(), any::<[u8; 32]>(), object(), 0..1_u32 << 20, bytes, any::<u32>()).prop_map(
            |(transfer, bundle, object, offset, bytes, edition)| Block {
                transfer,
                number: transfer.wrapping_mul(3),
                status: Status::Data,
                bundle: Digest::from_bytes(bundle),
                object,
                offset,
                object_bytes: offset + u32::try_from(bytes.len()).unwrap(),
                edition,
                bytes: bytes.into(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_request_reads_back(request in request()) {
            prop_assert_eq!(BlockRequest::decode(&request.encode().unwrap()), Ok(request));
        }

        #[test]
        fn a_block_reads_back(block in block()) {
            prop_assert_eq!(Block::decode(&block.encode().unwrap()), Ok(block));
        }

        #[test]
        fn a_block_with_one_bit_flipped_is_refused(block in block(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut message = block.encode().unwrap().to_vec();
            let at = at.index(message.len());
            message[at] ^= 1_u8 << bit;
            prop_assert!(Block::decode(&message.into()).is_err());
        }

        #[test]
        fn a_message_cut_or_lengthened_is_refused(request in request(), block in block(), cut in 1_usize..40) {
            let whole = request.encode().unwrap();
            prop_assert!(BlockRequest::decode(&whole[..whole.len() - cut]).is_err());
            prop_assert!(BlockRequest::decode(&[&whole[..], &[0]].concat()).is_err());
            let whole = block.encode().unwrap();
            prop_assert!(Block::decode(&whole.slice(..whole.len() - cut)).is_err());
            prop_assert!(Block::decode(&[&whole[..], &[0]].concat().into()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..400), kind in prop_oneof![Just(REQUEST), Just(DATA)]) {
            let _unread = (BlockRequest::decode(&bytes), Block::decode(&bytes.clone().into()));
            if let [version, tag, ..] = &mut bytes[..] {
                (*version, *tag) = (VERSION, kind);
            }
            let _unread = (BlockRequest::decode(&bytes), Block::decode(&bytes.into()));
        }
    }

    #[test]
    fn fields_out_of_bounds_are_refused_with_their_code() {
        let digest = Digest::of(b"x");
        let range = |offset, length| Range { object: Object::Chunk(digest), offset, length };
        let request =
            |credit, ranges| BlockRequest { transfer: 1, number: 1, bundle: digest, credit, ranges };
        for (bad, want) in [
            (request(0, vec![range(0, 1)]), BadBlock::Credit),
            (request((8 << 20) + 1, vec![range(0, 1)]), BadBlock::Credit),
            (request(1, vec![]), BadBlock::Ranges(0)),
            (request(1, vec![range(0, 1); 257]), BadBlock::Ranges(257)),
            (request(1, vec![range(0, 0)]), BadBlock::Bounds),
            (request(1, vec![range(MAX_CHUNK_BYTES, 1)]), BadBlock::Bounds),
            (request(1, vec![range(u32::MAX, u32::MAX)]), BadBlock::Bounds),
        ] {
            assert_eq!(bad.encode(), Err(want));
        }
    }
}
