//! Memory: aligned floats, and where in the arena each buffer lies.

use std::ops::{Deref, DerefMut};

use agentd_plan::memory::{self, Lifetime};

/// Floats whose first one starts a cache line.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    // Invariant: `start + length <= floats.len()`.
    floats: Vec<f32>,
    start: usize,
    length: usize,
}

/// Floats in a cache line.
pub(crate) const LINE: usize = 16;

impl Aligned {
    /// So many zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        let mut floats = vec![0.0; length + LINE];
        ask_for_huge_pages(&mut floats);
        let start = (64 - (floats.as_ptr().addr() & 63)) / size_of::<f32>() % LINE;
        Self { floats, start, length }
    }
}

/// Asks that fresh memory come in huge pages: weights that stream from memory then cost far fewer address look-ups, and
/// loading far fewer faults.
fn ask_for_huge_pages(fresh: &mut [f32]) {
    const PAGE: usize = 4096;
    const HUGE: usize = 2 << 20;
    let bytes = size_of_val(fresh);
    if bytes < 2 * HUGE {
        return;
    }
    let lead = fresh.as_ptr().addr().next_multiple_of(PAGE) - fresh.as_ptr().addr();
    let start = fresh.as_mut_ptr().cast::<u8>().wrapping_add(lead).cast();
    #[expect(unsafe_code, reason = "the one call that the standard library does not have")]
    // SAFETY: whole pages inside the slice, and advice on huge pages does not change what they hold.
    let advised = unsafe {
        rustix::mm::madvise(start, (bytes - lead) / PAGE * PAGE, rustix::mm::Advice::LinuxHugepage)
    };
    // Without them everything works as well, only slower.
    advised.unwrap_or_default();
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.floats.get(self.start..self.start + self.length).unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.floats.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// A part of the arena, in floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// Its first float.
    pub(crate) offset: usize,
    /// How many floats it has.
    pub(crate) length: usize,
    /// The first step that touches it.
    pub(crate) first: usize,
    /// The last step that touches it.
    pub(crate) last: usize,
}

impl Buffer {
    /// Whether both are in use at some step.
    pub(crate) const fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether both share floats.
    pub(crate) const fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.length && other.offset < self.offset + self.length
    }
}

/// Gives each buffer whole cache lines and an offset; returns the floats needed in all, `None` when they are more than
/// can be addressed.
pub(crate) fn place(buffers: &mut [Buffer]) -> Option<usize> {
    const FLOAT: usize = size_of::<f32>();
    let mut lifetimes = Vec::with_capacity(buffers.len());
    for buffer in buffers.iter_mut() {
        buffer.length = buffer.length.checked_next_multiple_of(LINE)?;
        let bytes = buffer.length.checked_mul(FLOAT)?;
        lifetimes.push(Lifetime { bytes, align: LINE * FLOAT, first: buffer.first, last: buffer.last });
    }
    let arena = memory::place(&lifetimes)?;
    for (buffer, offset) in buffers.iter_mut().zip(&arena.offsets) {
        buffer.offset = offset / FLOAT;
    }
    Some(arena.bytes / FLOAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_in_use_at_once_never_share_floats(
            wanted in prop::collection::vec((1_usize..500, 0_usize..20, 0_usize..20), 1..40),
        ) {
            let mut buffers: Vec<Buffer> = wanted
                .iter()
                .map(|(length, a, b)| Buffer { offset: 0, length: *length, first: *a.min(b), last: *a.max(b) })
                .collect();
            let total = place(&mut buffers).unwrap();
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(a.offset + a.length <= total);
                for b in &buffers[i + 1..] {
                    prop_assert!(!a.meets(b) || !a.overlaps(b));
                }
            }
        }
    }
}
