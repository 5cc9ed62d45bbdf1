//! Cuts a file into chunks that two versions of it share.
//!
//! In: the file's bytes and where tensors lie in it. Out: ranges that follow each other and make up the file.
//! The same file is always cut in the same way; a change moves only cuts near it.
//!
//! A tensor that is large for its file is a piece of its own, together with the few bytes that announce it; what lies
//! between large tensors is a piece too. Each piece is then cut by its content with FastCDC. So a layer that did not
//! change keeps its chunks whatever happens around it.
//!
//! Source: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems" (2020).

use std::ops::Range;

use fastcdc::v2020::FastCDC;

use crate::MAX_CHUNK;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Average chunk of bundles up to 1 GiB.
const AVERAGE: usize = 128 * KIB;
/// Bytes of a bundle for which chunks of the average size stay far from the limit on their number.
const CHUNKS_PLANNED: u64 = 8_192;

/// Sizes of chunks, alike for all files of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutter {
    average: usize,
}

impl Cutter {
    /// A cutter for a bundle of `total` bytes: chunks of 128 KiB on average up to 1 GiB, larger ones above.
    pub fn for_bundle(total: u64) -> Self {
        let mut average = AVERAGE;
        while average < 2 * MIB && total / CHUNKS_PLANNED > average as u64 {
            average *= 2;
        }
        Self { average }
    }

    /// Cuts a file. `tensors`: where tensors lie, sorted and apart; empty for a file that is no model.
    ///
    /// Returns ranges of 1 byte to 4 MiB; none for an empty file.
    pub fn cut(self, file: &[u8], tensors: &[Range<usize>]) -> Vec<Range<usize>> {
        let small = small_size(file.len());
        let mut cuts = Vec::new();
        for piece in pieces(file.len(), small, tensors) {
            let bytes = file.get(piece.range.clone()).unwrap_or_default();
            let sizes =
                if piece.large { Sizes::large(self.average) } else { Sizes::between(small, self.average) };
            cuts.extend(sizes.cut(bytes, piece.range.start));
        }
        cuts
    }
}

/// Least and average size of a chunk, and the most.
struct Sizes {
    least: usize,
    average: usize,
    most: usize,
}

impl Sizes {
    fn large(average: usize) -> Self {
        let most = usize::try_from(MAX_CHUNK).unwrap_or(usize::MAX).min(4 * average);
        Self { least: average / 4, average, most }
    }

    /// For files without large tensors, and for what lies between them.
    fn between(small: usize, average: usize) -> Self {
        Self::large(average.min(2 * small))
    }

    fn cut(&self, bytes: &[u8], start: usize) -> impl Iterator<Item = Range<usize>> {
        FastCDC::new(bytes, self.least, self.average, self.most)
            .map(move |chunk| start + chunk.offset..start + chunk.offset + chunk.length)
    }
}

/// From this size on a tensor is a piece of its own: a 512th of the file, in powers of two so that files of similar
/// size agree.
fn small_size(file: usize) -> usize {
    match (file / 512).checked_ilog2() {
        Some(bits) => (1_usize << bits).clamp(KIB, 64 * KIB),
        None => KIB,
    }
}

/// A part of a file that is cut by itself.
struct Piece {
    range: Range<usize>,
    large: bool,
}

fn pieces(length: usize, small: usize, tensors: &[Range<usize>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for tensor in tensors.iter().filter(|tensor| tensor.len() >= small && tensor.end <= length) {
        if tensor.start < start {
            continue;
        }
        // Less than `small` in front of a tensor announces it, and would be a tiny chunk alone.
        if tensor.start - start >= small {
            pieces.push(Piece { range: start..tensor.start, large: false });
            start = tensor.start;
        }
        pieces.push(Piece { range: start..tensor.end, large: true });
        start = tensor.end;
    }
    if start < length {
        pieces.push(Piece { range: start..length, large: tensors.is_empty() });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agentd_onnx::{
        build::{Graph, Node},
        tensors,
    };
    use agentd_types::{Datatype, Digest};
    use proptest::prelude::*;

    use super::*;

    /// Bytes that do not compress and do not repeat.
    fn noise(count: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// A model of layers with `sizes` bytes each; the content of layer `i` is drawn from `seeds[i]`.
    fn model(sizes: &[usize], seeds: &[u64]) -> Vec<u8> {
        let mut graph = Graph::new("g").input("x", Datatype::Fp32, &[1]);
        for (layer, (size, seed)) in sizes.iter().zip(seeds).enumerate() {
            let name = format!("layer.{layer}.weight");
            let dims = [i64::try_from(*size).unwrap()];
            graph = graph.node(Node::new("Mul").inputs(&["x", &name]).outputs(&[&format!("y{layer}")])).raw(
                &name,
                Datatype::Uint8,
                &dims,
                &noise(*size, *seed),
            );
        }
        graph.output("y0", Datatype::Fp32, &[1]).model(17)
    }

    fn chunks(file: &[u8]) -> Vec<Range<usize>> {
        let places: Vec<_> = tensors(file).unwrap_or_default().into_iter().map(|place| place.range).collect();
        Cutter::for_bundle(file.len() as u64).cut(file, &places)
    }

    /// Bytes of `new` in chunks that `old` lacks.
    fn fetched(old: &[u8], new: &[u8]) -> usize {
        let held: BTreeSet<_> = chunks(old).into_iter().map(|range| Digest::of(&old[range])).collect();
        let missing =
            chunks(new).into_iter().filter(|range| !held.contains(&Digest::of(&new[range.clone()])));
        missing.map(|range| range.len()).sum()
    }

    #[track_caller]
    fn check_whole(file: &[u8], cuts: &[Range<usize>]) {
        let mut end = 0;
        for cut in cuts {
            assert_eq!(cut.start, end);
            assert!((1..=4 * MIB).contains(&cut.len()), "{} bytes", cut.len());
            end = cut.end;
        }
        assert_eq!(end, file.len());
    }

    #[test]
    fn an_empty_file_has_no_chunks_and_a_small_one_has_one() {
        assert_eq!(chunks(b""), []);
        assert_eq!(chunks(b"x"), vec![Range { start: 0, end: 1 }]);
        assert_eq!(chunks(&noise(20_000, 1)).len(), 1);
    }

    #[test]
    fn chunks_of_plain_files_average_about_128_kib() {
        let file = noise(32 * MIB, 1);
        let average = file.len() / chunks(&file).len();
        assert!((96 * KIB..=192 * KIB).contains(&average), "{average}");
    }

    #[test]
    fn larger_bundles_get_larger_chunks() {
        for (total, average) in
            [(0, 128 * KIB), (1 << 30, 128 * KIB), (3 << 30, 512 * KIB), (1 << 40, 2 * MIB)]
        {
            assert_eq!(Cutter::for_bundle(total).average, average, "{total}");
        }
    }

    #[test]
    fn what_announces_a_tensor_lies_in_one_chunk_with_it() {
        let file = model(&[20_000; 8], &[1, 2, 3, 4, 5, 6, 7, 8]);
        let cuts = chunks(&file);
        // Eight layers, and the few bytes that end the model.
        assert_eq!(cuts.len(), 9, "{cuts:?}");
        assert!(cuts.iter().take(8).all(|cut| cut.len() > 20_000), "{cuts:?}");
    }

    #[test]
    fn changing_the_last_layers_fetches_little_more_than_they_have() {
        // 64 layers of 1 MiB; the last one and a third of MiB of head are 2 % of the bytes.
        let sizes: Vec<usize> = [vec![MIB; 63], vec![MIB, 300 * KIB]].concat();
        let mut seeds: Vec<u64> = (1..=65).collect();
        let old = model(&sizes, &seeds);
        seeds[63] = 1_000;
        seeds[64] = 1_001;
        let new = model(&sizes, &seeds);
        let share = fetched(&old, &new) as f64 / new.len() as f64;
        assert!((0.02..=0.0225).contains(&share), "{share}");
    }

    #[test]
    fn changing_the_tail_of_any_file_fetches_at_most_three_per_cent() {
        for seed in 1..4 {
            let old = noise(64 * MIB, seed);
            let mut new = old.clone();
            let tail = new.len() - new.len() / 50;
            new.splice(tail.., noise(old.len() - tail, seed + 100));
            let share = fetched(&old, &new) as f64 / new.len() as f64;
            assert!(share <= 0.03, "{share}");
        }
    }

    #[test]
    fn a_small_model_shares_the_layers_that_stay() {
        // As the digits of the demo: 97 kB, of which the last layer has 2 kB.
        let sizes = [576, 18_432, 73_728, 2_560];
        let (old, new) = (model(&sizes, &[1, 2, 3, 4]), model(&sizes, &[1, 2, 3, 5]));
        assert!(fetched(&old, &new) < 4_000, "{}", fetched(&old, &new));
    }

    #[test]
    fn adding_a_layer_in_front_leaves_the_others_their_chunks() {
        let sizes = [300 * KIB; 12];
        let seeds: Vec<u64> = (1..13).collect();
        let old = model(&sizes, &seeds);
        let new = model(&[&[50 * KIB], &sizes[..]].concat(), &[&[99], &seeds[..]].concat());
        // The layers' names are numbered, so the chunk that announces each one changes; the rest stays.
        let share = fetched(&old, &new) as f64 / new.len() as f64;
        assert!(share < 0.75, "{share}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_make_up_the_file_and_depend_on_nothing_else(
            sizes in prop::collection::vec(0..200_000_usize, 0..12), seed in 1..1_000_u64,
        ) {
            let seeds: Vec<u64> = (seed..).take(sizes.len()).collect();
            let file = model(&sizes, &seeds);
            let cuts = chunks(&file);
            check_whole(&file, &cuts);
            prop_assert_eq!(cuts, chunks(&file.clone()));
        }

        #[test]
        fn changing_one_layer_leaves_the_other_layers_their_chunks(
            sizes in prop::collection::vec(30_000..200_000_usize, 2..10), which in any::<prop::sample::Index>(),
        ) {
            let mut seeds: Vec<u64> = (1..).take(sizes.len()).collect();
            let old = model(&sizes, &seeds);
            let layer = which.index(sizes.len());
            seeds[layer] = 5_000;
            let new = model(&sizes, &seeds);
            prop_assert!(fetched(&old, &new) <= sizes[layer] + 4_096);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn inserting_bytes_into_a_plain_file_changes_chunks_near_them_only(
            at in any::<prop::sample::Index>(), count in 1..5_000_usize, seed in 1..100_u64,
        ) {
            let old = noise(8 * MIB, seed);
            let mut new = old.clone();
            let at = at.index(old.len());
            new.splice(at..at, noise(count, 7_777));
            prop_assert!(fetched(&old, &new) <= 2 * MIB);
        }
    }
}
