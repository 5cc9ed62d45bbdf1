//! Places in buffers, maps of pixels, and windows over them.

/// A buffer of the plan, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) usize);

/// A place in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// The buffer.
    pub(crate) buffer: BufferId,
    /// Floats from the buffer's start.
    pub(crate) start: usize,
}

impl At {
    /// The place `floats` further on.
    pub(crate) const fn plus(self, floats: usize) -> Self {
        Self { buffer: self.buffer, start: self.start + floats }
    }
}

/// An image or a batch of images in a buffer: where its pixels and channels are.
///
/// Channels lie in blocks of `lanes`; a plain map has one lane, rows of features have all their features in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// Pixel (0, 0) of the first image's first block, after the halo.
    pub(crate) at: At,
    /// Images.
    pub(crate) images: usize,
    /// Channels.
    pub(crate) channels: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) columns: usize,
    /// Channels that lie next to each other.
    pub(crate) lanes: usize,
    /// From one image to the next.
    pub(crate) image: usize,
    /// From one block of channels to the next.
    pub(crate) block: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one pixel to the next.
    pub(crate) pixel: usize,
    /// Zeros around the pixels: above, left, below, right.
    pub(crate) halo: Halo,
}

/// Rows and columns of zeros around a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Halo {
    /// Rows above.
    pub(crate) top: usize,
    /// Columns at the left.
    pub(crate) left: usize,
    /// Rows below.
    pub(crate) bottom: usize,
    /// Columns at the right.
    pub(crate) right: usize,
}

impl Halo {
    /// What holds both.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

impl Map {
    /// Blocks of channels.
    pub(crate) const fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Floats before pixel (0, 0) of a block that belong to the halo.
    pub(crate) const fn lead(&self) -> usize {
        self.halo.top * self.row + self.halo.left * self.pixel
    }
}

/// Numbers in a buffer or among the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// In a buffer.
    Buffer(At),
    /// Among the constants.
    Constant(usize),
}

/// A window that walks over rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plane {
    /// Taps: rows and columns.
    pub(crate) taps: (usize, usize),
    /// Rows and columns from one output pixel to the next.
    pub(crate) strides: (usize, usize),
    /// Rows and columns from one tap to the next.
    pub(crate) dilations: (usize, usize),
    /// Rows and columns of padding before the map.
    pub(crate) padding: (usize, usize),
    /// Rows and columns of padding after it.
    pub(crate) after: (usize, usize),
}

impl Plane {
    /// Taps in all.
    pub(crate) const fn count(&self) -> usize {
        self.taps.0 * self.taps.1
    }

    /// The halo that holds the padding.
    pub(crate) const fn halo(&self) -> Halo {
        Halo { top: self.padding.0, left: self.padding.1, bottom: self.after.0, right: self.after.1 }
    }

    /// Whether each of `outputs` rows and columns sees a pixel of an input of `inputs`.
    pub(crate) const fn meets(&self, inputs: (usize, usize), outputs: (usize, usize)) -> bool {
        let first = (self.taps.0 - 1) * self.dilations.0 >= self.padding.0
            && (self.taps.1 - 1) * self.dilations.1 >= self.padding.1;
        first
            && (outputs.0 - 1) * self.strides.0 < self.padding.0 + inputs.0
            && (outputs.1 - 1) * self.strides.1 < self.padding.1 + inputs.1
    }

    /// Whether the last of `outputs` rows and columns ends within an input of `inputs` with its padding.
    pub(crate) const fn ends_inside(&self, inputs: (usize, usize), outputs: (usize, usize)) -> bool {
        let rows = (outputs.0 - 1) * self.strides.0 + (self.taps.0 - 1) * self.dilations.0;
        let columns = (outputs.1 - 1) * self.strides.1 + (self.taps.1 - 1) * self.dilations.1;
        rows < self.padding.0 + inputs.0 + self.after.0 && columns < self.padding.1 + inputs.1 + self.after.1
    }

    /// The first row of an input of so many rows under the window of output row `y`, and the one after its last.
    pub(crate) fn rows(&self, y: usize, rows: usize) -> (usize, usize) {
        let (step, dilation, padding) = (self.strides.0, self.dilations.0, self.padding.0);
        let start = y * step;
        let end = (start + (self.taps.0 - 1) * dilation + 1).saturating_sub(padding);
        let skipped = padding.saturating_sub(start).div_ceil(dilation) * dilation;
        ((start + skipped).saturating_sub(padding), end.min(rows))
    }
}
