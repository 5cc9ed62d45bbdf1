//! Factors of quantised numbers, as words of two halves or four bytes.

use crate::kernel::{dot::UNROLLED, simd::MAX_LANES};

/// Two channels as one word, the bits of a float.
fn word(even: i32, odd: i32) -> f32 {
    f32::from_bits(((even & 0xffff) | (odd << 16)).cast_unsigned())
}

/// The products of one group of two vectors of output channels.
#[derive(Debug, PartialEq)]
pub(crate) struct Group {
    /// Where the words of a pixel's products are; the bits of floats.
    pub(crate) offsets: Vec<f32>,
    /// Factors, `[inner][2 * lanes]` words.
    pub(crate) weights: Vec<f32>,
}

/// What products multiply: `factor(word, part, column)` is the factor of a word's half or byte for an output channel.
pub(crate) struct Products<'a, F> {
    /// Where each word is, from a pixel's first one.
    pub(crate) offsets: &'a [u32],
    /// Output channels.
    pub(crate) columns: usize,
    /// Lanes of a vector.
    pub(crate) lanes: usize,
    /// Whether the first vector has the even channels of the group and the second the odd ones; else they follow each
    /// other.
    pub(crate) interleaved: bool,
    /// The factors.
    pub(crate) factor: F,
}

/// The factors of one word for two vectors of channels.
type Part<const PARTS: usize> = [[i32; PARTS]; 2 * MAX_LANES];

/// Words of factors from which [`Products::share`] takes only some.
const SAMPLE: usize = 256;

impl<F: Fn(usize, usize, usize) -> i32> Products<'_, F> {
    /// The factors of one word for a group of channels.
    fn of_word<const PARTS: usize>(&self, first: usize, word: usize) -> Part<PARTS> {
        let mut factors = [[0; PARTS]; 2 * MAX_LANES];
        for (at, factors) in factors.iter_mut().enumerate().take(2 * self.lanes) {
            let column = first + place_in_pair(at, self.lanes, self.interleaved);
            if column < self.columns {
                *factors = std::array::from_fn(|part| (self.factor)(word, part, column));
            }
        }
        factors
    }

    fn groups(&self, mut add: impl FnMut(usize, usize, &mut Group)) -> Vec<Group> {
        let mut groups = Vec::new();
        for first in (0..self.columns).step_by(2 * self.lanes) {
            let words = self.offsets.len();
            let mut group = Group {
                offsets: Vec::with_capacity(words + UNROLLED),
                weights: Vec::with_capacity((words + UNROLLED) * 2 * self.lanes),
            };
            for word in 0..self.offsets.len() {
                add(first, word, &mut group);
            }
            let inner = group.offsets.len().next_multiple_of(UNROLLED);
            group.offsets.resize(inner, 0.0);
            group.weights.resize(inner * 2 * self.lanes, 0.0);
            groups.push(group);
        }
        groups
    }

    /// Packs factors of halves; words whose factors are all 0 are left out.
    pub(crate) fn halves(&self) -> Vec<Group> {
        self.groups(|first, at, group| {
            let factors = self.of_word::<2>(first, at);
            if factors.iter().any(|factors| *factors != [0; 2]) {
                group.offsets.push(f32::from_bits(self.offsets.get(at).copied().unwrap_or(0)));
                let words = factors.into_iter().take(2 * self.lanes);
                group.weights.extend(words.map(|[even, odd]| word(even, odd)));
            }
        })
    }

    /// Packs factors of bytes, likewise. A word whose products could exceed 16 bits comes twice or more, with a part of its
    /// factors each time, so that none can.
    pub(crate) fn bytes(&self) -> Vec<Group> {
        self.groups(|first, at, group| {
            let mut left = self.of_word::<4>(first, at);
            while left.iter().any(|factors| *factors != [0; 4]) {
                group.offsets.push(f32::from_bits(self.offsets.get(at).copied().unwrap_or(0)));
                for factors in left.iter_mut().take(2 * self.lanes) {
                    group.weights.push(bytes(taken(factors)));
                }
            }
        })
    }

    /// How many words of factors [`Products::bytes`] gives for each word, about.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^24")]
    pub(crate) fn share(&self) -> f32 {
        let (mut all, mut words) = (0_usize, 0_usize);
        for first in (0..self.columns).step_by(2 * self.lanes) {
            let step = (self.offsets.len() / SAMPLE).max(1);
            for at in (0..self.offsets.len()).step_by(step) {
                let mut left = self.of_word::<4>(first, at);
                if left.iter().all(|factors| *factors == [0; 4]) {
                    continue;
                }
                let twice = left.iter_mut().any(|factors| {
                    let _ = taken(factors);
                    *factors != [0; 4]
                });
                all += 1 + usize::from(twice);
                words += 1;
            }
        }
        if words == 0 { 1.0 } else { all as f32 / words as f32 }
    }
}

/// Takes bytes from factors so that neither the first nor the last two can sum up to more than 16 bits with any bytes.
fn taken(factors: &mut [i32; 4]) -> [i32; 4] {
    let mut taken = [0; 4];
    for (left, taken) in factors.as_chunks_mut::<2>().0.iter_mut().zip(taken.as_chunks_mut::<2>().0) {
        let [a, b] = *left;
        let first = a.clamp(-128, 127);
        // 255 * 128 = 32640. Factors of different signs work against each other.
        let (least, most) = (-128 - first.min(0), 128 - first.max(0));
        let second = b.clamp(least.max(-128), most.min(127));
        *taken = [first, second];
        *left = [a - first, b - second];
    }
    taken
}

/// Four factors as one word.
#[expect(clippy::cast_possible_truncation, reason = "factors that were taken fit into bytes")]
fn bytes(factors: [i32; 4]) -> f32 {
    f32::from_bits(u32::from_le_bytes(factors.map(|factor| (factor as i8).cast_unsigned())))
}

/// The channel, of those of two vectors, that a lane of both is for.
pub(crate) const fn place_in_pair(at: usize, lanes: usize, interleaved: bool) -> usize {
    if interleaved { at % lanes * 2 + at / lanes } else { at }
}

/// One number for each output channel, in the order of [`Products`].
pub(crate) fn by_pairs(
    columns: usize,
    lanes: usize,
    interleaved: bool,
    number: impl Fn(usize) -> f32,
) -> Vec<f32> {
    let padded = columns.next_multiple_of(2 * lanes);
    let places = (0..padded).map(|at| {
        let pair = at / (2 * lanes) * 2 * lanes;
        pair + place_in_pair(at - pair, lanes, interleaved)
    });
    places.map(|column| if column < columns { number(column) } else { 0.0 }).collect()
}

/// The factors of a depthwise convolution in words, `[block][tap][2 * lanes]`: those of even channels below a 0, then
/// those of odd ones above a 0.
pub(crate) fn depthwise_words(
    channels: usize,
    taps: usize,
    lanes: usize,
    factor: impl Fn(usize, usize) -> i32,
) -> Vec<f32> {
    let mut packed = Vec::with_capacity(channels.next_multiple_of(2 * lanes) * taps);
    for first in (0..channels).step_by(2 * lanes) {
        for tap in 0..taps {
            for at in 0..2 * lanes {
                let channel = first + place_in_pair(at, lanes, true);
                let factor = if channel < channels { factor(channel, tap) } else { 0 };
                packed.push(if at < lanes { word(factor, 0) } else { word(0, factor) });
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_that_are_taken_add_up_to_the_factors_and_stay_within_16_bits(
            all in prop::array::uniform4(-255_i32..=255),
        ) {
            let (mut left, mut sum) = (all, [0; 4]);
            for _ in 0..6 {
                let taken = taken(&mut left);
                for pair in taken.as_chunks::<2>().0 {
                    let least: i32 = pair.iter().map(|factor| 255 * factor.min(&0)).sum();
                    let most: i32 = pair.iter().map(|factor| 255 * factor.max(&0)).sum();
                    prop_assert!(pair.iter().all(|factor| (-128..=127).contains(factor)));
                    prop_assert!(i32::from(i16::MIN) <= least && most <= i32::from(i16::MAX));
                }
                sum = std::array::from_fn(|at| sum[at] + taken[at]);
            }
            prop_assert_eq!(sum, all);
            prop_assert_eq!(left, [0; 4]);
        }
    }
}
