//! What vectors can do at best: multiply-adds in registers, and reading.

use super::simd::Simd;

/// Chains of multiply-adds that do not wait for each other: more than any processor has under way at once, and few enough
/// for sixteen registers.
pub(crate) const CHAINS: usize = 12;

/// Multiply-adds in registers, [`CHAINS`] vectors in each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fused {
    /// How often.
    pub(crate) rounds: usize,
    /// Factor and summand, 0.5: numbers then tend to 1 and are never subnormal. The compiler must not know it.
    pub(crate) half: f32,
    /// One float, which keeps the work from being left out.
    pub(crate) output: *mut f32,
}

/// Reading of floats next to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    /// The first float.
    pub(crate) from: *const f32,
    /// How many; what does not fill [`CHAINS`] vectors is left out.
    pub(crate) count: usize,
    /// One float, which keeps the work from being left out.
    pub(crate) output: *mut f32,
}

/// Runs the rounds.
///
/// # Safety
/// The processor has the instruction set of `S`, and the pointer of `p` is valid for one float.
#[inline(always)]
pub(crate) unsafe fn fused<S: Simd>(p: &Fused) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let half = S::splat(p.half);
        // No two begin alike, or they would be computed once.
        let mut chains = [half; CHAINS];
        for i in 1..CHAINS {
            chains[i] = S::add(chains[i - 1], half);
        }
        for _ in 0..p.rounds {
            for chain in &mut chains {
                *chain = S::fma(*chain, half, half);
            }
        }
        *p.output = sum::<S>(&chains);
    }
}

/// Reads all floats once.
///
/// # Safety
/// The processor has the instruction set of `S`, and the pointers of `p` are valid for `count` floats and for one.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(p: &Read) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut chains = [S::splat(0.0); CHAINS];
        let turn = CHAINS * S::LANES;
        for at in 0..p.count / turn {
            for (index, chain) in chains.iter_mut().enumerate() {
                *chain = S::add(*chain, S::load(p.from.add(at * turn + index * S::LANES)));
            }
        }
        *p.output = sum::<S>(&chains);
    }
}

/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
unsafe fn sum<S: Simd>(chains: &[S::V; CHAINS]) -> f32 {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let mut sum = 0.0;
        for chain in chains {
            sum += S::sum(*chain);
        }
        sum
    }
}
