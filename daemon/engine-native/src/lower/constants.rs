//! Constants of a plan: places now, numbers later.
//!
//! In: what steps read besides the arena. Out: a place for each at once, so that all that a plan needs is known before
//! anything is packed; then the numbers, one after the other, each list of weights dropped once it is packed.

use std::fmt;

use agentd_plan::Array;

use crate::memory::{Aligned, LINE};

/// Zeros at the start of the constants: the bias of sums that go on from others.
pub(crate) const ZEROS: usize = 64;

/// Writes numbers to their place.
type Write = Box<dyn FnOnce(&mut [f32]) + Send>;

/// Numbers that are still to be written.
struct Fill {
    start: usize,
    length: usize,
    /// Where the weights lie from which they are made, and how many bytes; for [`Constants::peak`].
    source: (usize, usize),
    write: Write,
}

/// Places of constants, and how each gets its numbers.
pub(crate) struct Constants {
    length: usize,
    fills: Vec<Fill>,
}

impl fmt::Debug for Constants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constants")
            .field("length", &self.length)
            .field("fills", &self.fills.len())
            .finish_non_exhaustive()
    }
}

impl Default for Constants {
    fn default() -> Self {
        Self { length: ZEROS, fills: Vec::new() }
    }
}

impl Constants {
    /// Floats of all constants.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// A place for `length` floats, from the start of a cache line, with room for kernels that read whole vectors.
    fn place(&mut self, length: usize) -> usize {
        let start = self.length.next_multiple_of(LINE);
        self.length = (start + length).next_multiple_of(LINE) + LINE;
        start
    }

    /// Adds a few numbers.
    pub(super) fn add(&mut self, items: Vec<f32>) -> usize {
        let (start, length) = (self.place(items.len()), items.len());
        let source = (items.as_ptr().addr(), length * size_of::<f32>());
        let write: Write = Box::new(move |to| to.copy_from_slice(&items));
        self.fills.push(Fill { start, length, source, write });
        start
    }

    /// Adds `length` floats that `write` makes of `weights`, into zeros.
    pub(super) fn later(
        &mut self,
        weights: Array,
        length: usize,
        write: impl FnOnce(&mut [f32], &[f32]) + Send + 'static,
    ) -> usize {
        let start = self.place(length);
        let items = weights.items::<f32>().unwrap_or_default();
        let source = (items.as_ptr().addr(), size_of_val(items));
        let write: Write = Box::new(move |to| write(to, weights.items().unwrap_or_default()));
        self.fills.push(Fill { start, length, source, write });
        start
    }

    /// Bytes of constants and weights while the numbers are written, at most. `kept` bytes are there all the time.
    pub(crate) fn peak(&self, kept: usize) -> usize {
        let mut last = std::collections::BTreeMap::new();
        for (at, fill) in self.fills.iter().enumerate() {
            last.insert(fill.source.0, at);
        }
        let ends = |at: usize, fill: &Fill| last.get(&fill.source.0) == Some(&at);
        let fills = || self.fills.iter().enumerate();
        let mut weights: usize =
            fills().filter(|(at, fill)| ends(*at, fill)).map(|(_, fill)| fill.source.1).sum();
        let mut peak = weights;
        for (at, fill) in fills() {
            peak = peak.max(weights + (fill.start + fill.length) * size_of::<f32>());
            if ends(at, fill) {
                weights -= fill.source.1;
            }
        }
        kept + peak
    }

    /// The numbers.
    pub(crate) fn write(self) -> Aligned {
        let mut all = Aligned::zeros(self.length);
        for fill in self.fills {
            if let Some(to) = all.get_mut(fill.start..fill.start + fill.length) {
                (fill.write)(to);
            }
        }
        all
    }
}
