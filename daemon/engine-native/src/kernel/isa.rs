//! Kernels compiled for each instruction set, and the choice among them at run time.
//!
//! One line of [`instance`] for each instruction set makes entry points with its `target_feature` and a table of
//! pointers to them. Adding an instruction set is an implementation of [`Simd`](super::simd::Simd) and one line.

use super::{
    activation::{self, Combine, Interleave, Map, Vector},
    along::{self, Along},
    conv::{self, Tiles},
    depthwise::{self, Depthwise},
    dot::{self, Dots, DotsDepthwise},
    elements::{self, Row},
    norm::{self, Groups, Neighbours},
    peak::{self, Fused, Read},
    pool::{self, Pool, Whole},
    quantised::{
        convert::{self, Blocks, Channels, Cover, Squeeze},
        maps::{self, Maximum, Mean, Pairs},
    },
    recurrent::{self, Moment},
    rows::{self, Normalise, Softmax},
    simd,
    winograd::{self, Input, Output},
};

/// A kernel. Calling it needs the instruction set of its table, and parameters that describe valid memory.
pub(crate) type Kernel<P> = unsafe fn(&P);

/// The kernels of one instruction set.
#[derive(Debug)]
pub(crate) struct Kernels {
    /// Which instruction set.
    pub(crate) isa: Isa,
    /// Floats in a vector.
    pub(crate) lanes: usize,
    /// Whether products of bytes take less than products of halves.
    pub(crate) bytes: bool,
    /// Tile widths, in pixels, by blocks of output channels (index 1 to 4; 0 unused).
    pub(crate) tile_pixels: [usize; 5],
    tiles: fn(usize, usize) -> Option<Kernel<Tiles>>,
    depthwise: fn(usize, usize, usize) -> Option<Kernel<Depthwise>>,
    dots: fn(usize, bool) -> Option<Kernel<Dots>>,
    dots_depthwise: fn(usize, usize) -> Option<Kernel<DotsDepthwise>>,
    pub(crate) maximum: Kernel<Pool>,
    pub(crate) average: Kernel<Pool>,
    pub(crate) whole: Kernel<Whole>,
    pub(crate) transform: Kernel<Input>,
    pub(crate) restore: Kernel<Output>,
    pub(crate) softmax: Kernel<Softmax>,
    pub(crate) normalise: Kernel<Normalise>,
    pub(crate) along: Kernel<Along>,
    pub(crate) elements: Kernel<Row>,
    pub(crate) groups: Kernel<Groups>,
    pub(crate) neighbours: Kernel<Neighbours>,
    pub(crate) map: Kernel<Map>,
    pub(crate) combine: Kernel<Combine>,
    pub(crate) vector: Kernel<Vector>,
    pub(crate) interleave: Kernel<Interleave>,
    pub(crate) separate: Kernel<Interleave>,
    pub(crate) quantise: Kernel<Channels>,
    pub(crate) dequantise: Kernel<Channels>,
    pub(crate) quantise_blocks: Kernel<Blocks>,
    pub(crate) dequantise_blocks: Kernel<Blocks>,
    pub(crate) cover: Kernel<Cover>,
    pub(crate) squeeze: Kernel<Squeeze>,
    pub(crate) pairs: Kernel<Pairs>,
    pub(crate) largest: Kernel<Maximum>,
    pub(crate) mean: Kernel<Mean>,
    pub(crate) lstm: Kernel<Moment>,
    pub(crate) gru: Kernel<Moment>,
    pub(crate) rnn: Kernel<Moment>,
    pub(crate) fused: Kernel<Fused>,
    pub(crate) read: Kernel<Read>,
}

/// Columns that the depthwise kernels compute at once, at most.
pub(crate) const DEPTHWISE_COLUMNS: usize = 8;

/// Columns that the depthwise kernels of words compute at once, at most.
pub(crate) const WORD_COLUMNS: usize = 4;

impl Kernels {
    /// The tile kernel for so many pixels and blocks.
    pub(crate) fn tiles(&self, pixels: usize, blocks: usize) -> Option<Kernel<Tiles>> {
        (self.tiles)(pixels, blocks)
    }

    /// The depthwise kernel for `k` taps square (0: any), a stride (ignored for any) and so many columns.
    pub(crate) fn depthwise(&self, k: usize, stride: usize, columns: usize) -> Option<Kernel<Depthwise>> {
        (self.depthwise)(k, stride, columns)
    }

    /// The tile kernel of words for so many pixels, of bytes or of halves.
    pub(crate) fn dots(&self, pixels: usize, bytes: bool) -> Option<Kernel<Dots>> {
        (self.dots)(pixels, bytes)
    }

    /// The depthwise kernel of words for `k` taps square (0: any) and so many columns.
    pub(crate) fn dots_depthwise(&self, k: usize, columns: usize) -> Option<Kernel<DotsDepthwise>> {
        (self.dots_depthwise)(k, columns)
    }
}

/// An instruction set for which kernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F and BW, 16 lanes.
    Avx512,
    /// AVX2 and FMA, 8 lanes.
    Avx2,
    /// NEON, 8 lanes in two registers.
    Neon,
    /// No vector instructions beyond what the compiler uses by itself.
    Portable,
}

impl Isa {
    /// The widest that this processor has.
    pub fn detect() -> Self {
        [Self::Avx512, Self::Avx2, Self::Neon]
            .into_iter()
            .find(|isa| isa.available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Portable => true,
            #[allow(unreachable_patterns, reason = "what is left depends on the architecture")]
            _ => false,
        }
    }

    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Its kernels, or the portable ones where the processor does not have it.
    pub(crate) fn kernels(self) -> &'static Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if self.available() => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.available() => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => &neon::KERNELS,
            _ => &portable::KERNELS,
        }
    }
}

macro_rules! instance {
    ($name:ident, $isa:ident, $simd:ty, [$($feature:literal)?], $pixels:expr, [$($wide:literal)*], $($blocks:literal: $($tile:literal)*);*) => {
        mod $name {
            use super::*;

            type S = $simd;

            $(#[target_feature(enable = $feature)])?
            unsafe fn tiles<const PIXELS: usize, const BLOCKS: usize>(p: &Tiles) {
                // SAFETY: this function is compiled for the instruction set; the caller owes the rest that the kernel asks for.
                unsafe { conv::tiles::<S, PIXELS, BLOCKS>(p) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn depthwise<const K: usize, const STRIDE: usize, const COLUMNS: usize>(p: &Depthwise) {
                // SAFETY: this function is compiled for the instruction set; the caller owes the rest that the kernel asks for.
                unsafe { depthwise::depthwise::<S, K, STRIDE, COLUMNS>(p) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn dots<const PIXELS: usize, const BYTES: bool>(p: &Dots) {
                // SAFETY: this function is compiled for the instruction set; the caller owes the rest that the kernel asks for.
                unsafe { dot::dots::<S, PIXELS, BYTES>(p) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn dots_depthwise<const K: usize, const COLUMNS: usize>(p: &DotsDepthwise) {
                // SAFETY: this function is compiled for the instruction set; the caller owes the rest that the kernel asks for.
                unsafe { dot::dots_depthwise::<S, K, COLUMNS>(p) }
            }
            instance!(@entry [$($feature)?] quantise(Channels) = convert::quantise);
            instance!(@entry [$($feature)?] dequantise(Channels) = convert::dequantise);
            instance!(@entry [$($feature)?] quantise_blocks(Blocks) = convert::quantise_blocks);
            instance!(@entry [$($feature)?] dequantise_blocks(Blocks) = convert::dequantise_blocks);
            instance!(@entry [$($feature)?] cover(Cover) = convert::cover);
            instance!(@entry [$($feature)?] squeeze(Squeeze) = convert::squeeze);
            instance!(@entry [$($feature)?] pairs(Pairs) = maps::pairs);
            instance!(@entry [$($feature)?] largest(Maximum) = maps::maximum);
            instance!(@entry [$($feature)?] mean(Mean) = maps::mean);
            instance!(@entry [$($feature)?] maximum(Pool) = pool::maximum);
            instance!(@entry [$($feature)?] average(Pool) = pool::average);
            instance!(@entry [$($feature)?] whole(Whole) = pool::whole);
            instance!(@entry [$($feature)?] transform(Input) = winograd::transform);
            instance!(@entry [$($feature)?] restore(Output) = winograd::restore);
            instance!(@entry [$($feature)?] softmax(Softmax) = rows::softmax);
            instance!(@entry [$($feature)?] normalise(Normalise) = rows::normalise);
            instance!(@entry [$($feature)?] along(Along) = along::along);
            instance!(@entry [$($feature)?] elements(Row) = elements::elements);
            instance!(@entry [$($feature)?] groups(Groups) = norm::groups);
            instance!(@entry [$($feature)?] neighbours(Neighbours) = norm::neighbours);
            instance!(@entry [$($feature)?] map(Map) = activation::map);
            instance!(@entry [$($feature)?] combine(Combine) = activation::combine);
            instance!(@entry [$($feature)?] vector(Vector) = activation::vector);
            instance!(@entry [$($feature)?] interleave(Interleave) = activation::interleave);
            instance!(@entry [$($feature)?] separate(Interleave) = activation::separate);
            instance!(@entry [$($feature)?] lstm(Moment) = recurrent::lstm);
            instance!(@entry [$($feature)?] gru(Moment) = recurrent::gru);
            instance!(@entry [$($feature)?] rnn(Moment) = recurrent::rnn);
            instance!(@entry [$($feature)?] fused(Fused) = peak::fused);
            instance!(@entry [$($feature)?] read(Read) = peak::read);

            fn choose_tiles(pixels: usize, blocks: usize) -> Option<Kernel<Tiles>> {
                match (pixels, blocks) {
                    $($(($tile, $blocks) => Some(tiles::<$tile, $blocks>),)*)*
                    _ => None,
                }
            }
            fn choose_depthwise(k: usize, stride: usize, columns: usize) -> Option<Kernel<Depthwise>> {
                instance!(@depthwise k, stride, columns, 1 2 3 4 5 6 7 8)
            }

            fn choose_dots(pixels: usize, bytes: bool) -> Option<Kernel<Dots>> {
                match (pixels, bytes) {
                    $(($wide, false) => Some(dots::<$wide, false>), ($wide, true) => Some(dots::<$wide, true>),)*
                    _ => None,
                }
            }
            fn choose_dots_depthwise(k: usize, columns: usize) -> Option<Kernel<DotsDepthwise>> {
                instance!(@word_columns k, columns, 1 2 3 4)
            }

            pub(super) static KERNELS: Kernels = Kernels {
                isa: Isa::$isa,
                lanes: <S as simd::Simd>::LANES,
                bytes: <S as simd::words::Words>::BYTES,
                tile_pixels: $pixels,
                tiles: choose_tiles,
                depthwise: choose_depthwise,
                dots: choose_dots,
                dots_depthwise: choose_dots_depthwise,
                quantise, dequantise, quantise_blocks, dequantise_blocks, cover, squeeze, pairs, largest, mean,
                maximum, average, whole, transform, restore, softmax, normalise, along, elements, groups, neighbours,
                map, combine, vector, interleave, separate, lstm, gru, rnn, fused, read,
            };
        }
    };
    (@entry [$($feature:literal)?] $name:ident($params:ty) = $module:ident::$kernel:ident) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name(p: &$params) {
            // SAFETY: this function is compiled for the instruction set; the caller owes the rest that the kernel asks for.
            unsafe { $module::$kernel::<S>(p) }
        }
    };
    (@word_columns $k:expr, $columns:expr, $($c:literal)*) => {
        match ($k, $columns) {
            $((3, $c) => Some(dots_depthwise::<3, $c>), (5, $c) => Some(dots_depthwise::<5, $c>),
              (0, $c) => Some(dots_depthwise::<0, $c>),)*
            _ => None,
        }
    };
    (@depthwise $k:expr, $stride:expr, $columns:expr, $($c:literal)*) => {
        match ($k, $stride, $columns) {
            $((3, 1, $c) => Some(depthwise::<3, 1, $c>), (3, 2, $c) => Some(depthwise::<3, 2, $c>),
              (5, 1, $c) => Some(depthwise::<5, 1, $c>), (5, 2, $c) => Some(depthwise::<5, 2, $c>),
              (0, _, $c) => Some(depthwise::<0, 1, $c>),)*
            _ => None,
        }
    };
}

#[cfg(target_arch = "x86_64")]
instance!(avx512, Avx512, simd::Avx512, ["avx512f,avx512bw"], [0, 12, 12, 8, 6], [1 2 3 4 5 6 7 8 9 10 11 12],
    1: 1 2 3 4 5 6 7 8 9 10 11 12; 2: 1 2 3 4 5 6 7 8 9 10 11 12; 3: 1 2 3 4 5 6 7 8; 4: 1 2 3 4 5 6);
#[cfg(target_arch = "x86_64")]
instance!(avx2, Avx2, simd::Avx2, ["avx2,fma"], [0, 8, 6, 3, 3], [1 2 3 4 5 6],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2 3);
#[cfg(target_arch = "aarch64")]
instance!(neon, Neon, simd::Neon, [], [0, 8, 6, 3, 3], [1 2 3 4 5 6],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2 3);
instance!(portable, Portable, simd::Portable, [], [0, 8, 6, 3, 3], [1 2 3 4 5 6],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2 3);
