//! Places buffers in one arena: those that live at the same time do not overlap.
//!
//! In: sizes and lifetimes. Out: an offset for each. Knows nothing of graphs, so that every back end can use it with its
//! own layouts.

/// A buffer and when it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Its size.
    pub bytes: usize,
    /// Its offset is a multiple of this; 0 counts as 1.
    pub align: usize,
    /// The first step that touches it.
    pub first: usize,
    /// The last step that touches it; not before `first`.
    pub last: usize,
}

impl Lifetime {
    /// Whether both are needed at some step.
    pub const fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where buffers lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arena {
    /// The offset of each buffer, in the order in which they were given.
    pub offsets: Vec<usize>,
    /// Bytes of the arena.
    pub bytes: usize,
}

/// Places buffers, the largest first, each at the lowest offset where nothing that it meets lies.
///
/// Buffers of 0 bytes lie at 0. Returns `None` when the arena would not fit the address space. Quadratic in the number
/// of buffers.
///
/// Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020), greedy by size.
pub fn place(buffers: &[Lifetime]) -> Option<Arena> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(buffers.get(*at).map_or(0, |buffer| buffer.bytes)));
    let mut arena = Arena { offsets: vec![0; buffers.len()], bytes: 0 };
    // Offset and end of what is placed, ascending by offset.
    let mut placed: Vec<(usize, usize, Lifetime)> = Vec::new();
    for at in order {
        let Some(buffer) = buffers.get(at).filter(|buffer| buffer.bytes > 0) else { continue };
        let align = buffer.align.max(1);
        let mut offset = 0_usize;
        for (start, end, _) in placed.iter().filter(|(_, _, other)| other.meets(buffer)) {
            if offset.checked_add(buffer.bytes)? <= *start {
                break;
            }
            offset = offset.max(end.checked_next_multiple_of(align)?);
        }
        let end = offset.checked_add(buffer.bytes)?;
        let index = placed.partition_point(|(start, _, _)| *start < offset);
        placed.insert(index, (offset, end, *buffer));
        *arena.offsets.get_mut(at)? = offset;
        arena.bytes = arena.bytes.max(end);
    }
    Some(arena)
}

/// The most bytes that live at one step: no arena is smaller.
pub fn lower_bound(buffers: &[Lifetime]) -> usize {
    let at = |step: usize| {
        let live = buffers.iter().filter(|buffer| (buffer.first..=buffer.last).contains(&step));
        live.fold(0_usize, |sum, buffer| sum.saturating_add(buffer.bytes))
    };
    buffers.iter().map(|buffer| at(buffer.first)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_of_buffers_needs_two_places() {
        let chain: Vec<Lifetime> =
            (0..10).map(|at| Lifetime { bytes: 100, align: 64, first: at, last: at + 1 }).collect();
        assert_eq!(place(&chain).unwrap().bytes, 228);
        assert_eq!(lower_bound(&chain), 200);
    }

    #[test]
    fn an_arena_beyond_the_address_space_is_refused() {
        let buffer = Lifetime { bytes: usize::MAX / 2 + 1, align: 1, first: 0, last: 0 };
        assert_eq!(place(&[buffer, buffer]), None);
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(
            buffers in proptest::collection::vec((0_usize..1000, 0_u32..8, 0_usize..30, 0_usize..10), 0..40)
        ) {
            let buffers: Vec<Lifetime> = buffers
                .into_iter()
                .map(|(bytes, align, first, length)| Lifetime { bytes, align: 1 << align, first, last: first + length })
                .collect();
            let arena = place(&buffers).unwrap();
            prop_assert!(arena.bytes >= lower_bound(&buffers));
            for (a, at) in buffers.iter().zip(&arena.offsets) {
                prop_assert_eq!(at % a.align, 0);
                prop_assert!(a.bytes == 0 || at + a.bytes <= arena.bytes);
            }
            for (i, (a, at)) in buffers.iter().zip(&arena.offsets).enumerate() {
                for (b, other) in buffers.iter().zip(&arena.offsets).skip(i + 1) {
                    let apart = at + a.bytes <= *other || other + b.bytes <= *at || a.bytes == 0 || b.bytes == 0;
                    prop_assert!(apart || !a.meets(b));
                }
            }
        }
    }
}
