//! Norms over groups of channels and over neighbouring channels of plain maps.

use super::{
    along::total,
    simd::{MAX_LANES, Simd},
};

/// Groups of channels that are each brought to mean 0 and variance 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// `[images][groups][channels][plane]`, next to each other.
    pub(crate) input: *const f32,
    /// The results; may be the input.
    pub(crate) output: *mut f32,
    /// Images.
    pub(crate) images: usize,
    /// Groups of an image.
    pub(crate) groups: usize,
    /// Channels of a group.
    pub(crate) channels: usize,
    /// Floats of a channel.
    pub(crate) plane: usize,
    /// Factors, `[groups][channels]`.
    pub(crate) scale: *const f32,
    /// Summands, `[groups][channels]`.
    pub(crate) bias: *const f32,
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

/// Norms of all groups, the variance in a second pass.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn groups<S: Simd>(p: &Groups) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let length = p.channels * p.plane;
        #[expect(clippy::cast_precision_loss, reason = "it is a mean")]
        let share = 1.0 / length as f32;
        for group in 0..p.images * p.groups {
            let (from, to) = (p.input.add(group * length), p.output.add(group * length));
            let mean = total::<S>(from, length) * share;
            let variance = {
                let middle = S::splat(mean);
                let (mut squares, mut at) = ([S::splat(0.0); 2], 0);
                while at + 2 * S::LANES <= length {
                    for (half, sum) in squares.iter_mut().enumerate() {
                        let d = S::sub(S::load(from.add(at + half * S::LANES)), middle);
                        *sum = S::fma(d, d, *sum);
                    }
                    at += 2 * S::LANES;
                }
                let mut rest = 0.0;
                for at in at..length {
                    let d = *from.add(at) - mean;
                    rest += d * d;
                }
                (S::sum(S::add(squares[0], squares[1])) + rest) * share
            };
            let factor = 1.0 / (variance + p.epsilon).sqrt();
            for channel in 0..p.channels {
                let place = group % p.groups * p.channels + channel;
                let scale = *p.scale.add(place) * factor;
                let (a, b) = (S::splat(scale), S::splat(*p.bias.add(place) - mean * scale));
                let (from, to) = (from.add(channel * p.plane), to.add(channel * p.plane));
                let mut at = 0;
                while at < p.plane {
                    let n = S::LANES.min(p.plane - at);
                    S::store_up_to(to.add(at), S::fma(S::load_up_to(from.add(at), n), a, b), n);
                    at += n;
                }
            }
        }
    }
}

/// Channels divided by a power of the squares of their neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    /// `[images][channels][plane]`, next to each other.
    pub(crate) input: *const f32,
    /// The results; not the input.
    pub(crate) output: *mut f32,
    /// Images.
    pub(crate) images: usize,
    /// Channels.
    pub(crate) channels: usize,
    /// Floats of a channel.
    pub(crate) plane: usize,
    /// Channels before and after that count.
    pub(crate) reach: (usize, usize),
    /// Multiplies the sum of squares.
    pub(crate) factor: f32,
    /// Added to it.
    pub(crate) bias: f32,
    /// The power.
    pub(crate) power: f32,
}

/// `x / (bias + factor * squares)^power` for all channels.
///
/// # Safety
/// As [`groups`].
#[inline(always)]
pub(crate) unsafe fn neighbours<S: Simd>(p: &Neighbours) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (factor, bias) = (S::splat(p.factor), S::splat(p.bias));
        for image in 0..p.images {
            let first = image * p.channels * p.plane;
            for channel in 0..p.channels {
                let from = channel.saturating_sub(p.reach.0);
                let end = (channel + p.reach.1 + 1).min(p.channels);
                let mut at = 0;
                while at < p.plane {
                    let n = S::LANES.min(p.plane - at);
                    let mut squares = S::splat(0.0);
                    for other in from..end {
                        let x = S::load_up_to(p.input.add(first + other * p.plane + at), n);
                        squares = S::fma(x, x, squares);
                    }
                    let place = first + channel * p.plane + at;
                    let by = to_the_power::<S>(S::fma(squares, factor, bias), p.power);
                    S::store_up_to(p.output.add(place), S::div(S::load_up_to(p.input.add(place), n), by), n);
                    at += n;
                }
            }
        }
    }
}

/// `v^power`; three quarters, which nearly every model asks for, by roots.
#[inline(always)]
unsafe fn to_the_power<S: Simd>(v: S::V, power: f32) -> S::V {
    // SAFETY: the caller owes the instruction set; the array holds a vector.
    unsafe {
        if power.to_bits() == 0.75_f32.to_bits() {
            let root = S::sqrt(v);
            return S::mul(root, S::sqrt(root));
        }
        let mut lanes = [0.0; MAX_LANES];
        S::store(lanes.as_mut_ptr(), v);
        lanes.iter_mut().take(S::LANES).for_each(|lane| *lane = lane.powf(power));
        S::load(lanes.as_ptr())
    }
}
