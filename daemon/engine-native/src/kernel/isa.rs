//! Kernels compiled for each instruction set, and the choice among them at run time.
//!
//! One line of [`instance`] for each instruction set makes entry points with its `target_feature` and a table of
//! pointers to them. Adding an instruction set is an implementation of [`Simd`](super::simd::Simd) and one line.

use super::{
    activation::{self, Combine, Interleave, Map, Vector},
    along::{self, Along},
    conv::{self, Tiles},
    depthwise::{self, Depthwise},
    peak::{self, Fused, Read},
    pool::{self, Pool, Whole},
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
    /// Tile widths, in pixels, by blocks of output channels (index 1 to 4; 0 unused).
    pub(crate) tile_pixels: [usize; 5],
    tiles: fn(usize, usize) -> Option<Kernel<Tiles>>,
    depthwise: fn(usize, usize, usize) -> Option<Kernel<Depthwise>>,
    pub(crate) maximum: Kernel<Pool>,
    pub(crate) average: Kernel<Pool>,
    pub(crate) whole: Kernel<Whole>,
    pub(crate) transform: Kernel<Input>,
    pub(crate) restore: Kernel<Output>,
    pub(crate) softmax: Kernel<Softmax>,
    pub(crate) normalise: Kernel<Normalise>,
    pub(crate) along: Kernel<Along>,
    pub(crate) map: Kernel<Map>,
    pub(crate) combine: Kernel<Combine>,
    pub(crate) vector: Kernel<Vector>,
    pub(crate) interleave: Kernel<Interleave>,
    pub(crate) separate: Kernel<Interleave>,
    pub(crate) lstm: Kernel<Moment>,
    pub(crate) gru: Kernel<Moment>,
    pub(crate) rnn: Kernel<Moment>,
    pub(crate) fused: Kernel<Fused>,
    pub(crate) read: Kernel<Read>,
}

/// Columns that the depthwise kernels compute at once, at most.
pub(crate) const DEPTHWISE_COLUMNS: usize = 8;

impl Kernels {
    /// The tile kernel for so many pixels and blocks.
    pub(crate) fn tiles(&self, pixels: usize, blocks: usize) -> Option<Kernel<Tiles>> {
        (self.tiles)(pixels, blocks)
    }

    /// The depthwise kernel for `k` taps square (0: any), a stride (ignored for any) and so many columns.
    pub(crate) fn depthwise(&self, k: usize, stride: usize, columns: usize) -> Option<Kernel<Depthwise>> {
        (self.depthwise)(k, stride, columns)
    }
}

/// An instruction set for which kernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, 16 lanes.
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
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
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
    ($name:ident, $isa:ident, $simd:ty, [$($feature:literal)?], $pixels:expr, $($blocks:literal: $($tile:literal)*);*) => {
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
            instance!(@entry [$($feature)?] maximum(Pool) = pool::maximum);
            instance!(@entry [$($feature)?] average(Pool) = pool::average);
            instance!(@entry [$($feature)?] whole(Whole) = pool::whole);
            instance!(@entry [$($feature)?] transform(Input) = winograd::transform);
            instance!(@entry [$($feature)?] restore(Output) = winograd::restore);
            instance!(@entry [$($feature)?] softmax(Softmax) = rows::softmax);
            instance!(@entry [$($feature)?] normalise(Normalise) = rows::normalise);
            instance!(@entry [$($feature)?] along(Along) = along::along);
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

            pub(super) static KERNELS: Kernels = Kernels {
                isa: Isa::$isa,
                lanes: <S as simd::Simd>::LANES,
                tile_pixels: $pixels,
                tiles: choose_tiles,
                depthwise: choose_depthwise,
                maximum, average, whole, transform, restore, softmax, normalise, along, map, combine, vector,
                interleave, separate, lstm, gru, rnn, fused, read,
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
instance!(avx512, Avx512, simd::Avx512, ["avx512f"], [0, 12, 12, 8, 6],
    1: 1 2 3 4 5 6 7 8 9 10 11 12; 2: 1 2 3 4 5 6 7 8 9 10 11 12; 3: 1 2 3 4 5 6 7 8; 4: 1 2 3 4 5 6);
#[cfg(target_arch = "x86_64")]
instance!(avx2, Avx2, simd::Avx2, ["avx2,fma"], [0, 8, 6, 3, 2],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2);
#[cfg(target_arch = "aarch64")]
instance!(neon, Neon, simd::Neon, [], [0, 8, 6, 3, 2],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2);
instance!(portable, Portable, simd::Portable, [], [0, 8, 6, 3, 2],
    1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6; 3: 1 2 3; 4: 1 2);
