//! Elements of several datatypes, slices by index, padding, repetition.

use agentd_plan::op::{Cast, Compare, Gather, Logic, Pad, Tile, Where, movement::PadMode};
use agentd_types::Datatype::{self, Bool, Int8, Int32, Int64, Uint8};

use super::*;

const KINDS: [Datatype; 6] = [Bool, Uint8, Int8, Int32, Int64, Fp32];

/// Numbers of a datatype, small and sometimes equal.
fn typed(datatype: Datatype, shape: &[usize], seed: u64) -> Array {
    let items = numbers(shape.iter().product(), seed).into_iter().map(|x| f64::from((x * 5.0).floor() / 2.0));
    let items = if datatype == Bool {
        items.map(|x| f64::from(u8::from(x > 0.0))).collect()
    } else {
        items.collect()
    };
    Array::from_reals(datatype, shape.to_vec(), items).unwrap()
}

/// Runs a net of one node on inputs and constants of their own datatypes; every second one may be a constant.
#[track_caller]
fn run(op: impl Into<Op>, arrays: &[Array], constant: Option<usize>, native: bool) {
    let mut net = Net::new(1);
    let (mut ids, mut inputs) = (Vec::new(), Vec::new());
    for (at, array) in arrays.iter().enumerate() {
        ids.push(if constant == Some(at) {
            net.builder.constant("c", array.clone()).unwrap()
        } else {
            inputs.push(array.clone());
            net.builder.input(format!("x{at}"), array.fact()).unwrap()
        });
    }
    let y = net.node(op, &ids);
    check_with(net.finish(y), &inputs, Numerics::Fast, 0.0, native);
}

/// A shape that broadcasts to `shape`.
fn part(shape: &[usize], ones: &[bool]) -> Vec<usize> {
    shape.iter().zip(ones).map(|(dim, one)| if *one { 1 } else { *dim }).collect()
}

fn shapes() -> impl Strategy<Value = Vec<usize>> {
    (prop::collection::vec(1..7_usize, 1..4), 0..20_usize).prop_map(|(mut shape, more)| {
        *shape.last_mut().unwrap() += more;
        shape
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn casts_agree(shape in shapes(), from in 0..6_usize, to in 0..6_usize, seed in 0..1000_u64) {
        run(Cast { to: KINDS[to] }, &[typed(KINDS[from], &shape, seed)], None, true);
    }

    #[test]
    fn comparisons_and_logic_agree(
        shape in shapes(), (a, b) in (prop::collection::vec(any::<bool>(), 3), prop::collection::vec(any::<bool>(), 3)),
        kind in 0..6_usize, (how, logic) in (0..5_usize, 0..3_usize), constant in prop::option::of(0..2_usize),
        seed in 0..1000_u64,
    ) {
        use Compare::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let how = [Equal, Less, LessOrEqual, Greater, GreaterOrEqual][how];
        let (left, right) = (part(&shape, &a), part(&shape, &b));
        run(how, &[typed(KINDS[kind], &left, seed), typed(KINDS[kind], &right, seed + 1)], constant, true);
        let logic = [Logic::And, Logic::Or, Logic::Xor][logic];
        run(logic, &[typed(Bool, &left, seed), typed(Bool, &right, seed + 1)], constant, true);
        run(Unary::Not, &[typed(Bool, &left, seed)], None, true);
        run(Unary::IsNan, &[Array::new(left, numbers(part(&shape, &a).iter().product(), 1)).unwrap()], None, true);
    }

    #[test]
    fn choices_agree(
        shape in shapes(), ones in prop::collection::vec(any::<bool>(), 9), kind in 0..6_usize,
        constant in prop::option::of(0..3_usize), seed in 0..1000_u64,
    ) {
        let [c, a, b] = [0, 3, 6].map(|at| part(&shape, &ones[at..]));
        let arrays = [typed(Bool, &c, seed), typed(KINDS[kind], &a, seed + 1), typed(KINDS[kind], &b, seed + 2)];
        run(Where, &arrays, constant, true);
    }

    #[test]
    fn whole_numbers_agree(
        shape in shapes(), ones in prop::collection::vec(any::<bool>(), 3), wide in any::<bool>(), op in 0..6_usize,
        seed in 0..1000_u64,
    ) {
        let op = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min, Binary::Div][op];
        let kind = if wide { Int64 } else { Int32 };
        let b = typed(kind, &part(&shape, &ones), seed + 1);
        if op != Binary::Div {
            run(op, &[typed(kind, &shape, seed), b], None, true);
        } else {
            let b = Array::from_wholes(kind, b.shape(), b.wholes().unwrap().into_iter().map(|x| x.max(0) + 1).collect());
            run(op, &[typed(kind, &shape, seed), b.unwrap()], Some(1), true);
        }
    }

    #[test]
    fn gathers_agree(
        shape in shapes(), axis in 0..3_usize, places in prop::collection::vec(0..100_usize, 0..5), kind in 0..3_usize,
        wide in any::<bool>(), negative in any::<bool>(), constant in prop::option::of(0..2_usize), seed in 0..1000_u64,
    ) {
        let (axis, kind) = (axis % shape.len(), [Fp32, Int32, Int64][kind]);
        let size = shape[axis];
        let at = |place: &usize| (place % size) as i128 - if negative { size as i128 } else { 0 };
        let items: Vec<i128> = places.iter().map(at).collect();
        let indices = |shape: Vec<usize>, items: Vec<i128>| {
            Array::from_wholes(if wide { Int64 } else { Int32 }, shape, items).unwrap()
        };
        let several = indices(vec![1, places.len()], items.clone());
        run(Gather { axis }, &[typed(kind, &shape, seed), several], constant, !places.is_empty());
        if let Some(first) = items.first() {
            run(Gather { axis }, &[typed(kind, &shape, seed), indices(vec![], vec![*first])], constant, true);
        }
    }

    #[test]
    fn paddings_and_repetitions_agree(
        shape in shapes(), by in prop::collection::vec((-1..4_isize, -1..4_isize), 3), mode in 0..4_usize, kind in 0..2_usize,
        fill in any::<bool>(), seed in 0..1000_u64,
    ) {
        let mode = [PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap][mode];
        let kind = [Fp32, Int64][kind];
        let (before, after): (Vec<isize>, Vec<isize>) = by.into_iter().take(shape.len()).unzip();
        let left = shape.iter().zip(before.iter().zip(&after)).all(|(dim, (a, b))| dim.cast_signed() + a + b > 0);
        let cut = shape.iter().zip(before.iter().zip(&after)).all(|(dim, (a, b))| dim.cast_signed() + a.min(&0) + b.min(&0) >= 0);
        prop_assume!(left && cut);
        let mut arrays = vec![typed(kind, &shape, seed)];
        if fill && mode == PadMode::Constant {
            arrays.push(typed(kind, &[], seed + 9));
        }
        run(Pad { mode, before: before.clone(), after }, &arrays, Some(1), true);
        let repeats = before.iter().map(|by| by.unsigned_abs() + 1).collect();
        run(Tile { repeats }, &[typed(kind, &shape, seed)], None, true);
    }

    #[test]
    fn slices_backwards_agree(shape in shapes(), steps in prop::collection::vec(-2..3_isize, 3), kind in 0..2_usize, seed in 0..1000_u64) {
        let steps: Vec<isize> = steps.into_iter().take(shape.len()).map(|step| if step == 0 { -1 } else { step }).collect();
        let starts = shape.iter().zip(&steps).map(|(dim, step)| if *step < 0 { dim - 1 } else { 0 }).collect();
        let sizes = shape.iter().zip(&steps).map(|(dim, step)| dim.div_ceil(step.unsigned_abs())).collect();
        let kind = [Fp32, Int64][kind];
        run(Slice { starts, sizes, steps }, &[typed(kind, &shape, seed)], None, true);
    }
}

#[test]
fn an_index_that_lies_outside_is_refused_as_the_interpreter_does() {
    for (index, constant) in [(5, false), (-6, false), (5, true)] {
        let mut net = Net::new(1);
        let x = net.input(&[5, 2]);
        let indices = Array::list(vec![1_i64, index]);
        let mut inputs = vec![array(&[5, 2], 1)];
        let id = if constant {
            net.builder.constant("i", indices).unwrap()
        } else {
            inputs.push(indices.clone());
            net.builder.input("i", indices.fact()).unwrap()
        };
        let y = net.node(Gather { axis: 0 }, &[x, id]);
        let graph = Arc::new(net.finish(y));
        let want = graph.run(&inputs).unwrap_err();
        let mut model = Model::new(graph, Options::default()).unwrap();
        assert_eq!(model.fallbacks(), Vec::<&str>::new());
        let got = model.run_arrays(&inputs).unwrap_err();
        assert_eq!(got.to_string(), want.to_string());
        let cause = |error: &dyn std::error::Error| error.source().map(ToString::to_string);
        assert_eq!(cause(&got), cause(&want));
    }
}

#[test]
fn powers_slopes_and_remainders_agree() {
    for binary in [Binary::Pow, Binary::Mod, Binary::Fmod, Binary::PRelu] {
        for exponent in [2.0_f32, 0.5, 3.0, -1.0] {
            let mut net = Net::new(2);
            let x = net.input(&[1, 9, 4, 5]);
            let b = net.builder.constant("b", Array::new(vec![1], vec![exponent]).unwrap()).unwrap();
            let conv = net.conv(x, 9, Window::new([1, 1]), 1, Some(Unary::Sigmoid));
            // A remainder jumps, so sums of products are not divided.
            let jumps = matches!(binary, Binary::Mod | Binary::Fmod);
            let y = net.node(binary, &[if jumps { x } else { conv }, b]);
            let plain = net.node(binary, &[x, y]);
            let all = net.node(Binary::PRelu, &[plain, b]);
            check_with(net.finish(all), &[array(&[1, 9, 4, 5], 7)], Numerics::Fast, 2e-5, true);
        }
    }
}
