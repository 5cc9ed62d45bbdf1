//! Transposed convolutions.

use agentd_plan::op::ConvTranspose;

use super::*;

/// The output's length along one axis; `None` where nothing is left.
fn length((size, k, s): (usize, usize, usize), d: usize, pad: usize, more: usize) -> Option<usize> {
    ((size - 1) * s + (k - 1) * d + 1 + more).checked_sub(2 * pad).filter(|length| *length > 0)
}

/// A transposed convolution and a convolution that reads its output with a halo.
fn net(
    window: &Window,
    input: &[usize],
    output: &[usize],
    (groups, per_out): (usize, usize),
    act: Option<Unary>,
    seed: u64,
) -> Graph {
    let rank = window.rank();
    let mut net = Net::new(seed);
    let x = net.input(input);
    let x = net.node(Unary::Tanh, &[x]);
    let w = net.constant(&[&[input[1], per_out], window.kernel.as_slice()].concat());
    let b = net.constant(&[groups * per_out]);
    let transposed =
        ConvTranspose { window: window.clone(), groups, output: output.to_vec(), activation: act };
    let y = net.node(transposed, &[x, w, b]);
    let three = Window { pads_begin: vec![1; rank], pads_end: vec![1; rank], ..Window::new(vec![3; rank]) };
    let z = net.conv(y, 3, three, 1, None);
    net.finish(z)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transposed_convolutions_agree(
        (n, groups, per_in, per_out) in (1..3_usize, 1..4_usize, 1..12_usize, 1..12_usize), size in pair(9), k in pair(5),
        s in pair(3), d in pair(3), pad in (0..3_usize, 0..3_usize), more in (0..2_usize, 0..2_usize), flat in any::<bool>(),
        act in activation(), seed in 0..1000_u64,
    ) {
        let rows = length((size.0, k.0, s.0), d.0, pad.0, more.0);
        let columns = length((size.1, k.1, s.1), d.1, pad.1, more.1);
        let (Some(rows), Some(columns)) = (rows, columns) else { return Ok(()) };
        let whole = window(k, s, d, pad, pad);
        let from = [n, groups * per_in, size.0, size.1];
        let graph = net(&whole, &from, &[rows, columns], (groups, per_out), act, seed);
        // Some outputs are reached by no tap: the interpreter does those.
        check_with(graph, &[array(&from, seed)], Numerics::Fast, 2e-5, false);
        if flat {
            let last = |list: &[usize]| vec![list[1]];
            let line = Window {
                kernel: last(&whole.kernel), strides: last(&whole.strides), dilations: last(&whole.dilations),
                pads_begin: last(&whole.pads_begin), pads_end: last(&whole.pads_end),
            };
            let from = [n, groups * per_in, size.1];
            let graph = net(&line, &from, &[columns], (groups, per_out), act, seed);
            check_with(graph, &[array(&from, seed)], Numerics::Fast, 2e-5, false);
        }
    }

    #[test]
    fn transposed_convolutions_have_kernels(
        (c, m, s, more) in (1..20_usize, 1..20_usize, 1..4_usize, 0..4_usize), size in pair(9), act in activation(),
        seed in 0..1000_u64,
    ) {
        let k = s + more;
        let output: Vec<usize> = [size.0, size.1].iter().map(|size| (size - 1) * s + k).collect();
        let graph = net(&window((k, k), (s, s), (1, 1), (0, 0), (0, 0)), &[1, c, size.0, size.1], &output, (1, m), act, seed);
        check(graph, seed);
    }
}
