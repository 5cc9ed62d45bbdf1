//! Packing of matrices that are computed.

use super::Run;
use crate::{
    pack,
    step::{At, Parts},
};

impl Run<'_> {
    /// Packs matrices of the arena as [`pack::pack`] does those among the constants.
    pub(super) fn pack(
        &self,
        from: At,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
        parts: Parts,
        to: At,
        scale: f32,
    ) {
        let lanes = self.kernels.lanes;
        for part in 0..parts.count {
            let from = self.at(from).wrapping_add(part * parts.input);
            let mut to = self.at(to).wrapping_add(part * parts.weights);
            for (first, count) in pack::groups(columns.div_ceil(lanes), self.kernels) {
                for i in 0..rows {
                    for j in first * lanes..(first + count) * lanes {
                        let source = from.wrapping_add(i * row + j * column);
                        // SAFETY: the verifier proved rows times columns of the source and the packed size.
                        unsafe {
                            to.write(if j < columns { source.read() * scale } else { 0.0 });
                        }
                        to = to.wrapping_add(1);
                    }
                }
            }
        }
    }
}
