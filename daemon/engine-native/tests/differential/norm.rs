//! Norms over groups of channels and over neighbouring channels.

use agentd_plan::op::{GroupNorm, LocalResponseNorm};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norms_over_channels_agree(
        (n, groups, per_group) in (1..3_usize, 1..6_usize, 1..6_usize), spatial in prop::collection::vec(1..12_usize, 0..3),
        size in 1..7_usize, beta in prop_oneof![Just(0.75_f32), Just(0.5), Just(1.3)], seed in 0..1000_u64,
    ) {
        let channels = groups * per_group;
        let shape = [&[n, channels], spatial.as_slice()].concat();
        let mut net = Net::new(seed);
        let (x, scale, bias) = (net.input(&shape), net.constant(&[channels]), net.constant(&[channels]));
        let y = net.node(GroupNorm { groups, epsilon: 1e-3 }, &[x, scale, bias]);
        // All that a small tensor has may be what is left of a product and a bias that cancel: a few units in the last
        // place of numbers near 1.
        check_with(net.finish(y), &[array(&shape, seed)], Numerics::Fast, 5e-4, true);
        let mut net = Net::new(seed);
        let x = net.input(&shape);
        let y = net.node(LocalResponseNorm { size, alpha: 0.1, beta, bias: 1.5 }, &[x]);
        check(net.finish(y), seed);
    }
}
