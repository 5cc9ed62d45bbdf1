//! To and from floats and bytes.

use crate::{
    execute::Run,
    kernel::quantised::convert::{Blocks, Channels, Squeeze},
    step::{Map, integer::Bytes},
};

impl Run<'_> {
    /// Calls a kernel for each pair of channels of floats and words.
    pub(super) fn channels(
        &self,
        floats: &Map,
        words: &Map,
        scale: f32,
        (low, high): (f32, f32),
        kernel: unsafe fn(&Channels),
    ) {
        for image in 0..words.images {
            for word in 0..words.channels {
                let even = self.at(floats.at).wrapping_add(image * floats.image + 2 * word * floats.block);
                let place = image * words.image + word / words.lanes * words.block + word % words.lanes;
                let p = Channels {
                    even,
                    odd: if 2 * word + 1 < floats.channels {
                        even.wrapping_add(floats.block)
                    } else {
                        std::ptr::null_mut()
                    },
                    float_row: floats.row,
                    float_pixel: floats.pixel,
                    word: self.at(words.at).wrapping_add(place).cast(),
                    word_row: words.row,
                    word_pixel: words.pixel,
                    rows: words.rows,
                    width: words.columns,
                    scale,
                    low,
                    high,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size.
                unsafe { kernel(&p) }
            }
        }
    }

    /// Calls a kernel for each block of words and the blocks of floats that have the same channels.
    pub(super) fn convert_blocks(
        &self,
        floats: &Map,
        words: &Map,
        scale: f32,
        (low, high): (f32, f32),
        kernel: unsafe fn(&Blocks),
    ) {
        for image in 0..words.images {
            for block in 0..words.blocks() {
                let first = self.at(floats.at).wrapping_add(image * floats.image + 2 * block * floats.block);
                let both = 2 * block + 1 < floats.blocks();
                let p = Blocks {
                    words: self.at(words.at).wrapping_add(image * words.image + block * words.block).cast(),
                    word_row: words.row,
                    first,
                    second: if both { first.wrapping_add(floats.block) } else { std::ptr::null_mut() },
                    float_row: floats.row,
                    rows: words.rows,
                    width: words.columns,
                    scale,
                    low,
                    high,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size, in
                // whole vectors.
                unsafe { kernel(&p) }
            }
        }
    }

    /// Calls `f` with the place of each word and those of its one or two bytes.
    fn each_word(&self, bytes: &Bytes, words: &Map, mut f: impl FnMut(*mut i32, *mut u8, Option<*mut u8>)) {
        let (first, from) = (self.at(bytes.at).cast::<u8>(), self.at(words.at).cast::<i32>());
        for image in 0..words.images {
            for word in 0..words.channels {
                let place = image * words.image + word / words.lanes * words.block + word % words.lanes;
                let channel = first.wrapping_add(image * bytes.image + 2 * word * bytes.channel);
                let both = 2 * word + 1 < bytes.channels;
                for y in 0..words.rows {
                    for x in 0..words.columns {
                        let even = channel.wrapping_add(y * bytes.row + x * bytes.pixel);
                        let odd = both.then(|| even.wrapping_add(bytes.channel));
                        f(from.wrapping_add(place + y * words.row + x * words.pixel), even, odd);
                    }
                }
            }
        }
    }

    pub(super) fn widen(&self, from: &Bytes, to: &Map) {
        let number = |byte: u8| {
            let value = if from.signed { i16::from(byte.cast_signed()) } else { i16::from(byte) };
            u32::from((value - from.zero).cast_unsigned())
        };
        self.each_word(from, to, |word, even, odd| {
            // SAFETY: the verifier proved bytes and words, of one size.
            unsafe {
                let odd = odd.map_or(0, |odd| number(odd.read()));
                word.write((number(even.read()) | odd << 16).cast_signed());
            }
        });
        self.zero_halo(to);
    }

    pub(super) fn narrow(&self, from: &Map, to: &Bytes) {
        // What was quantised to 8 bits has 8 bits, so the lower bytes are enough.
        let [zero, _] = to.zero.to_le_bytes();
        self.each_word(to, from, |word, even, odd| {
            // SAFETY: the verifier proved bytes and words, of one size.
            unsafe {
                let [low, _, high, _] = word.read().to_le_bytes();
                even.write(low.wrapping_add(zero));
                if let Some(odd) = odd {
                    odd.write(high.wrapping_add(zero));
                }
            }
        });
    }

    pub(super) fn squeeze(&self, from: &Map, to: &Map, low: i16) {
        let rows = from.halo.top + from.rows + from.halo.bottom;
        self.each_block(from, to, |halves, bytes| {
            let (halves, bytes) = (halves.wrapping_sub(from.lead()), bytes.wrapping_sub(to.lead()));
            for row in 0..rows {
                let p = Squeeze {
                    input: halves.wrapping_add(row * from.row).cast(),
                    lanes: from.lanes,
                    low,
                    output: bytes.wrapping_add(row * to.row).cast(),
                    count: from.halo.left + from.columns + from.halo.right,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps with their halos.
                unsafe { (self.kernels.squeeze)(&p) }
            }
        });
    }
}
