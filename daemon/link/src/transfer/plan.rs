//! Which pieces of which objects are missing, asked for, or here.
//!
//! In: the objects wanted, and blocks as they come, in any order, twice, cut, or never asked for. Out: the pieces to ask
//! for next, and whole objects. Knows no network. Holds in memory only the objects that are partly here, which the
//! window bounds. Refuses every block that is not exactly a piece that was asked for and is not here yet.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use agentd_wire::{Block, MAX_BLOCK_BYTES, MAX_RANGES, Object, Range, Status};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

/// One piece: at most a block long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    object: Object,
    offset: u32,
    length: u32,
    /// How often it was asked for in vain.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    piece: Piece,
    at: Instant,
    /// Which request asked: a later one that is answered first says that this one is lost.
    request: u64,
}

/// An object that is partly here.
#[derive(Debug)]
struct Assembly {
    bytes: BytesMut,
    missing: u32,
    edition: u32,
}

/// What a block was good for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// A piece of an object that is not whole yet; `asked` is when, if it was asked for once only.
    Part { bytes: u64, asked: Option<Instant> },
    /// The last piece of an object.
    Whole { object: Object, content: Bytes, bytes: u64, asked: Option<Instant> },
    /// The server has no such object.
    Missing(Object),
    /// The server has too much to do.
    Busy,
    /// Nobody asked for it, or it came before.
    Unasked,
    /// It answers a piece that we asked for, but not with that piece.
    Misshapen,
}

/// A piece failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GaveUp {
    pub(crate) object: Object,
    pub(crate) failures: u32,
}

#[derive(Debug)]
pub(crate) struct Plan {
    wanted: VecDeque<(Object, u32)>,
    ready: VecDeque<Piece>,
    later: Vec<(Instant, Piece)>,
    asked: BTreeMap<(Object, u32), Asked>,
    assemblies: BTreeMap<Object, Assembly>,
    max_failures: u32,
    outstanding: u64,
    requests: u64,
    newest_answered: u64,
    last_arrival: Option<Instant>,
}

impl Plan {
    /// Everything of `wanted` is missing: objects with their lengths.
    pub(crate) fn new(wanted: impl IntoIterator<Item = (Object, u32)>, max_failures: u32) -> Self {
        Self {
            wanted: wanted.into_iter().collect(),
            ready: VecDeque::new(),
            later: Vec::new(),
            asked: BTreeMap::new(),
            assemblies: BTreeMap::new(),
            max_failures,
            outstanding: 0,
            requests: 0,
            newest_answered: 0,
            last_arrival: None,
        }
    }

    /// A manifest, whose length its first block tells.
    pub(crate) fn manifest(object: Object, max_failures: u32) -> Self {
        let mut plan = Self::new([], max_failures);
        plan.ready.push_back(Piece { object, offset: 0, length: MAX_BLOCK_BYTES, failures: 0 });
        plan
    }

    /// Whether every object is whole.
    pub(crate) fn is_done(&self) -> bool {
        self.wanted.is_empty()
            && self.ready.is_empty()
            && self.later.is_empty()
            && self.asked.is_empty()
            && self.assemblies.is_empty()
    }

    /// Bytes asked for and not here.
    pub(crate) const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whether anything waits to be asked for, now or later.
    pub(crate) fn has_more(&self) -> bool {
        !(self.ready.is_empty() && self.wanted.is_empty() && self.later.is_empty())
    }

    /// The next pieces to ask for, `credit` bytes at most; they are asked for from now on.
    pub(crate) fn ask(&mut self, credit: u64, now: Instant) -> Vec<Range> {
        self.wake(now);
        let mut ranges = Vec::new();
        let mut left = credit;
        while ranges.len() < MAX_RANGES {
            if self.ready.is_empty() {
                self.cut_next();
            }
            let Some(piece) = self.ready.front().copied().filter(|piece| u64::from(piece.length) <= left)
            else {
                break;
            };
            self.ready.pop_front();
            left -= u64::from(piece.length);
            self.outstanding += u64::from(piece.length);
            let asked = Asked { piece, at: now, request: self.requests + 1 };
            self.asked.insert((piece.object, piece.offset), asked);
            ranges.push(Range { object: piece.object, offset: piece.offset, length: piece.length });
        }
        if !ranges.is_empty() {
            self.requests += 1;
        }
        ranges
    }

    /// Takes in a block.
    ///
    /// # Errors
    /// When the object failed too often.
    pub(crate) fn accept(&mut self, block: Block, now: Instant) -> Result<Accepted, GaveUp> {
        let key = (block.object, block.offset);
        let Some(asked) = self.asked.get(&key).copied() else {
            return Ok(Accepted::Unasked);
        };
        self.last_arrival = Some(now);
        self.newest_answered = self.newest_answered.max(asked.request);
        match block.status {
            Status::Data => {}
            Status::Missing => {
                self.take_back(&key);
                self.postpone(asked.piece, now, Blame::Yes)?;
                return Ok(Accepted::Missing(block.object));
            }
            Status::Busy => {
                self.take_back(&key);
                self.postpone(asked.piece, now, Blame::No)?;
                return Ok(Accepted::Busy);
            }
        }
        let bytes = block.bytes.len() as u64;
        let once = (asked.piece.failures == 0).then_some(asked.at);
        match self.place(&block, asked.piece) {
            None => Ok(Accepted::Misshapen),
            Some(content) => {
                self.take_back(&key);
                Ok(match content {
                    Some(content) => Accepted::Whole { object: block.object, content, bytes, asked: once },
                    None => Accepted::Part { bytes, asked: once },
                })
            }
        }
    }

    /// The content of an object was wrong: all of it is asked for again.
    ///
    /// # Errors
    /// When it failed too often.
    pub(crate) fn refetch(&mut self, object: Object, length: u32, failures: u32) -> Result<(), GaveUp> {
        if failures > self.max_failures {
            return Err(GaveUp { object, failures });
        }
        self.begin(object, length, failures);
        Ok(())
    }

    /// Pieces that were asked for more than `patience` ago and are lost: nothing came since then, or a later request
    /// was answered. They are asked for again; returns how many, and whether nothing came at all.
    ///
    /// # Errors
    /// When one of them failed too often.
    pub(crate) fn reask(&mut self, patience: Duration, now: Instant) -> Result<(usize, bool), GaveUp> {
        let silent = self.last_arrival.is_none_or(|at| now.saturating_duration_since(at) > patience);
        let lost: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, asked)| {
                now.saturating_duration_since(asked.at) > patience
                    && (silent || asked.request < self.newest_answered)
            })
            .map(|(key, asked)| (*key, asked.piece))
            .collect();
        for (key, mut piece) in lost.iter().rev().copied() {
            self.take_back(&key);
            piece.failures += 1;
            if piece.failures > self.max_failures {
                return Err(GaveUp { object: piece.object, failures: piece.failures });
            }
            self.ready.push_front(piece);
        }
        Ok((lost.len(), silent && !lost.is_empty()))
    }

    /// The connection is gone and what was on its way with it; no piece is to blame.
    pub(crate) fn disconnected(&mut self) {
        let lost: Vec<_> = std::mem::take(&mut self.asked).into_values().collect();
        for asked in lost.into_iter().rev() {
            self.ready.push_front(asked.piece);
        }
        self.outstanding = 0;
        self.last_arrival = None;
    }

    fn take_back(&mut self, key: &(Object, u32)) {
        if let Some(asked) = self.asked.remove(key) {
            self.outstanding = self.outstanding.saturating_sub(u64::from(asked.piece.length));
        }
    }

    fn postpone(&mut self, mut piece: Piece, now: Instant, blame: Blame) -> Result<(), GaveUp> {
        if blame == Blame::Yes {
            piece.failures += 1;
        }
        if piece.failures > self.max_failures {
            return Err(GaveUp { object: piece.object, failures: piece.failures });
        }
        self.later.push((now + Duration::from_millis(500), piece));
        Ok(())
    }

    fn wake(&mut self, now: Instant) {
        let ready = &mut self.ready;
        self.later.retain(|(at, piece)| {
            let due = *at <= now;
            if due {
                ready.push_back(*piece);
            }
            !due
        });
    }

    fn cut_next(&mut self) {
        if let Some((object, length)) = self.wanted.pop_front() {
            self.begin(object, length, 0);
        }
    }

    fn begin(&mut self, object: Object, length: u32, failures: u32) {
        self.ready.extend(pieces(object, 0, length, failures));
        // An object of one block needs no place to be put together.
        if length > MAX_BLOCK_BYTES {
            self.assemblies.insert(object, Assembly::new(length, 0));
        }
    }

    /// Puts a block where it belongs. `None` when it does not fit, `Some(Some(..))` when its object is whole now.
    fn place(&mut self, block: &Block, piece: Piece) -> Option<Option<Bytes>> {
        let length = u32::try_from(block.bytes.len()).ok()?;
        if let Object::Manifest(_) = block.object {
            return self.place_manifest(block, piece, length);
        }
        if length != piece.length {
            return None;
        }
        let Some(assembly) = self.assemblies.get_mut(&block.object) else {
            // An object of one block is whole at once, unless it claims to be longer.
            return (block.object_bytes == length && block.offset == 0).then(|| Some(block.bytes.clone()));
        };
        assembly.put(block, length)?;
        Some(self.whole(block.object))
    }

    fn place_manifest(&mut self, block: &Block, piece: Piece, length: u32) -> Option<Option<Bytes>> {
        let due = block.object_bytes.saturating_sub(block.offset).min(MAX_BLOCK_BYTES).min(piece.length);
        if length != due {
            return None;
        }
        let other_edition = self
            .assemblies
            .get(&block.object)
            .is_none_or(|held| held.edition != block.edition || held.len() != block.object_bytes);
        if other_edition {
            // Either the first block, or another server holds another envelope of the same manifest: then begin again.
            self.assemblies.remove(&block.object);
            self.ready.retain(|piece| piece.object != block.object);
            self.asked.retain(|(object, offset), _| *object != block.object || *offset == block.offset);
            self.outstanding = self.asked.values().map(|asked| u64::from(asked.piece.length)).sum();
            if block.offset != 0 {
                self.take_back(&(block.object, block.offset));
                let failures = piece.failures + 1;
                let first = Piece { object: block.object, offset: 0, length: MAX_BLOCK_BYTES, failures };
                self.ready.push_back(first);
                return None;
            }
            let rest = pieces(block.object, length, block.object_bytes, piece.failures);
            self.ready.extend(rest);
            self.assemblies.insert(block.object, Assembly::new(block.object_bytes, block.edition));
        }
        self.assemblies.get_mut(&block.object)?.put(block, length)?;
        Some(self.whole(block.object))
    }

    fn whole(&mut self, object: Object) -> Option<Bytes> {
        if self.assemblies.get(&object).is_some_and(|assembly| assembly.missing == 0) {
            self.assemblies.remove(&object).map(|assembly| assembly.bytes.freeze())
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    Yes,
    No,
}

impl Assembly {
    fn new(length: u32, edition: u32) -> Self {
        Self { bytes: BytesMut::zeroed(length as usize), missing: length, edition }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn put(&mut self, block: &Block, length: u32) -> Option<()> {
        if block.object_bytes != self.len() {
            return None;
        }
        let start = block.offset as usize;
        self.bytes.get_mut(start..start + block.bytes.len())?.copy_from_slice(&block.bytes);
        self.missing = self.missing.saturating_sub(length);
        Some(())
    }
}

fn pieces(object: Object, from: u32, to: u32, failures: u32) -> impl Iterator<Item = Piece> {
    (from..to).step_by(MAX_BLOCK_BYTES as usize).map(move |offset| Piece {
        object,
        offset,
        length: (to - offset).min(MAX_BLOCK_BYTES),
        failures,
    })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers made by the tests themselves")]
mod tests {
    use agentd_types::Digest;
    use proptest::prelude::*;

    use super::*;

    fn content(seed: u8, length: u32) -> Vec<u8> {
        (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    }

    fn block(object: Object, whole: &[u8], offset: u32, length: u32) -> Block {
        let (start, end) = (offset as usize, (offset + length) as usize);
        Block {
            transfer: 1,
            number: 1,
            status: Status::Data,
            bundle: Digest::of(b"bundle"),
            object,
            offset,
            object_bytes: u32::try_from(whole.len()).unwrap(),
            edition: 0,
            bytes: Bytes::copy_from_slice(&whole[start..end]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// A server that loses, doubles, reorders, cuts and invents blocks, and a connection that breaks now and then.
        #[test]
        fn whatever_the_server_does_every_object_comes_whole_and_once(
            lengths in prop::collection::vec(1_u32..600_000, 1..6),
            seed in any::<u64>(),
        ) {
            let objects: Vec<_> = lengths.iter().enumerate().map(|(n, length)| {
                let whole = content(n as u8, *length);
                (Object::Chunk(Digest::of(&whole)), whole)
            }).collect();
            let by_name: BTreeMap<_, _> = objects.iter().cloned().collect();
            let wanted = by_name.iter().map(|(object, whole)| (*object, u32::try_from(whole.len()).unwrap()));
            let mut plan = Plan::new(wanted, 1_000);
            let mut random = crate::Jitter::new(seed);
            let mut now = Instant::now();
            let mut on_the_way: Vec<Block> = Vec::new();
            let mut came = BTreeMap::new();
            for _ in 0..10_000 {
                if plan.is_done() { break }
                now += Duration::from_millis(100);
                for range in plan.ask((1 << 20_u64) - plan.outstanding().min(1 << 20), now) {
                    on_the_way.push(block(range.object, &by_name[&range.object], range.offset, range.length));
                }
                prop_assert!(plan.outstanding() <= 1 << 20);
                for _ in 0..3 {
                    if on_the_way.is_empty() { break }
                    let at = (random.next_u64() % on_the_way.len() as u64) as usize;
                    let mut arriving = on_the_way.remove(at);
                    match random.next_u64() % 10 {
                        0 => continue,
                        1 => on_the_way.push(arriving.clone()),
                        2 => arriving.bytes = arriving.bytes.slice(1..),
                        3 => arriving.offset += 1,
                        4 => arriving.object = Object::Chunk(Digest::of(b"other")),
                        5 => { plan.disconnected(); on_the_way.clear(); }
                        6 => arriving.object_bytes += 1,
                        _ => {}
                    }
                    if let Accepted::Whole { object, content, .. } = plan.accept(arriving, now).unwrap() {
                        prop_assert!(came.insert(object, content).is_none(), "twice");
                    }
                }
                plan.reask(Duration::from_secs(2), now).unwrap();
            }
            prop_assert!(plan.is_done());
            prop_assert_eq!(plan.outstanding(), 0);
            prop_assert_eq!(came.len(), by_name.len());
            for (object, whole) in by_name {
                prop_assert_eq!(&came[&object][..], &whole[..]);
            }
        }
    }

    #[test]
    fn a_manifest_tells_its_length_and_another_edition_begins_again() {
        let object = Object::Manifest(Digest::of(b"bundle"));
        let (old, new) = (content(1, 300_000), content(2, 300_001));
        let mut plan = Plan::manifest(object, 8);
        let now = Instant::now();
        let first = plan.ask(1 << 20, now);
        assert_eq!(first.len(), 1);
        plan.accept(block(object, &old, 0, MAX_BLOCK_BYTES), now).unwrap();
        let rest = plan.ask(1 << 20, now);
        assert_eq!(rest.iter().map(|range| range.length).sum::<u32>(), 300_000 - MAX_BLOCK_BYTES);
        let other = Block { edition: 9, ..block(object, &new, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES) };
        assert_eq!(plan.accept(other, now).unwrap(), Accepted::Misshapen);
        let mut whole = None;
        for _ in 0..3 {
            for range in plan.ask(1 << 20, now) {
                let length = range.length.min(300_001 - range.offset);
                let part = Block { edition: 9, ..block(object, &new, range.offset, length) };
                if let Accepted::Whole { content, .. } = plan.accept(part, now).unwrap() {
                    whole = Some(content);
                }
            }
        }
        assert_eq!(whole.expect("the new edition is whole"), new);
        assert!(plan.is_done());
    }

    #[test]
    fn an_object_with_the_wrong_content_is_fetched_again_whole() {
        let whole = content(7, 300_000);
        let object = Object::Chunk(Digest::of(&whole));
        let mut plan = Plan::new([(object, 300_000)], 2);
        let now = Instant::now();
        for failures in 1..=3 {
            let mut came = None;
            for range in plan.ask(1 << 20, now) {
                let part = block(object, &whole, range.offset, range.length);
                if let Accepted::Whole { content, .. } = plan.accept(part, now).unwrap() {
                    came = Some(content);
                }
            }
            assert_eq!(came.expect("it is whole"), whole);
            assert_eq!(plan.refetch(object, 300_000, failures).is_ok(), failures <= 2);
        }
    }

    #[test]
    fn a_piece_that_never_comes_is_given_up() {
        let object = Object::Chunk(Digest::of(b"x"));
        let mut plan = Plan::new([(object, 10)], 2);
        let mut now = Instant::now();
        for _ in 0..2 {
            plan.ask(1 << 20, now);
            now += Duration::from_secs(10);
            assert_eq!(plan.reask(Duration::from_secs(5), now), Ok((1, true)));
        }
        plan.ask(1 << 20, now);
        now += Duration::from_secs(10);
        assert_eq!(plan.reask(Duration::from_secs(5), now), Err(GaveUp { object, failures: 3 }));
    }
}
