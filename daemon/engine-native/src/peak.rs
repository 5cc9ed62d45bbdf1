//! What this machine can do at best, measured: the figure that steps are held against.
//!
//! In: an instruction set and threads. Out: multiply-adds and bytes a second of all threads together.
#![allow(unsafe_code, reason = "the kernels that measure are called like all others")]

use std::time::Instant;

use crate::{
    kernel::{
        isa::Isa,
        peak::{CHAINS, Fused, Read},
    },
    team::Team,
};

/// Rounds of multiply-adds in one measurement: well under a millisecond on a fast processor.
const ROUNDS: usize = 200_000;
/// Floats that are read in one measurement: more than the caches of edge machines hold.
const FLOATS: usize = 16 << 20;
/// Measurements, of which the best counts: the first ones wake the processor up.
const TIMES: usize = 20;
/// The same for reading, which takes longer.
const READ_TIMES: usize = 5;

/// What the threads of a team reach together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Fused multiply-adds a second, in registers.
    pub multiply_adds: u64,
    /// Bytes a second, read from memory; 0 where there was no room to measure it.
    pub read_bytes: u64,
}

impl Peak {
    /// Measures; takes some tens of milliseconds.
    pub(crate) fn measure(isa: Isa, team: &mut Team) -> Self {
        Self { multiply_adds: multiply_adds(isa, team), read_bytes: read_bytes(isa, team).unwrap_or(0) }
    }
}

fn multiply_adds(isa: Isa, team: &mut Team) -> u64 {
    let kernels = isa.kernels();
    let work = |_: usize| {
        let mut output = 0.0;
        // SAFETY: the table's instruction set is there, and the output is one float.
        unsafe {
            let half = std::hint::black_box(0.5);
            (kernels.fused)(&Fused { rounds: ROUNDS, half, output: &raw mut output });
        }
        std::hint::black_box(output);
    };
    let each = ROUNDS.saturating_mul(CHAINS).saturating_mul(kernels.lanes);
    best(TIMES, each.saturating_mul(team.count()), || team.run(&work))
}

/// `None` when the memory is not to be had.
fn read_bytes(isa: Isa, team: &mut Team) -> Option<u64> {
    let kernels = isa.kernels();
    let mut floats: Vec<f32> = Vec::new();
    floats.try_reserve_exact(FLOATS).ok()?;
    floats.resize(FLOATS, 1.0);
    let part = FLOATS / team.count();
    let work = |index: usize| {
        let Some(own) = floats.get(index * part..(index + 1) * part) else { return };
        let mut output = 0.0;
        // SAFETY: the table's instruction set is there, and both pointers are valid for what is said of them.
        unsafe {
            (kernels.read)(&Read { from: own.as_ptr(), count: own.len(), output: &raw mut output });
        }
        std::hint::black_box(output);
    };
    Some(best(READ_TIMES, FLOATS * size_of::<f32>(), || team.run(&work)))
}

/// `amount` a second, in the fastest of so many times.
fn best(times: usize, amount: usize, mut work: impl FnMut()) -> u64 {
    let nanoseconds = (0..times).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_nanos()
    });
    let fastest = nanoseconds.min().unwrap_or(u128::MAX).max(1);
    u64::try_from(amount as u128 * 1_000_000_000 / fastest).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_has_a_peak_and_two_threads_reach_one_too() {
        for isa in
            [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable].into_iter().filter(|isa| isa.available())
        {
            for count in [1, 2] {
                let peak = Peak::measure(isa, &mut Team::new(count));
                // No processor is slower than this, and no two cores are as fast: work that was left out would be.
                let bounds = 1_000_000..2_000_000_000_000;
                assert!(bounds.contains(&peak.multiply_adds), "{isa:?}, {count} threads: {peak:?}");
                assert!(bounds.contains(&peak.read_bytes), "{isa:?}, {count} threads: {peak:?}");
            }
        }
    }
}
