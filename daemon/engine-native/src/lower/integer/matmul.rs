//! Matrix products of integers.

use agentd_plan::{Node, Op, op::ScaledMatMul};

use super::{Kind, Lowering, SHARE, Words, Zero, range, weights::Weights, word_sizes};
use crate::{
    lower::elementwise,
    pack,
    step::{
        At, Halo, Map, Step,
        integer::{Ending, Integer, Product},
    },
};

impl Lowering<'_> {
    /// A product whose input is rows of words.
    fn rows_product(
        &mut self,
        input: &Map,
        bytes: bool,
        weights: &Weights,
        bias: usize,
        interleaved: bool,
        (ending, output): (Ending, Map),
    ) -> Option<Integer> {
        let parts = if bytes { 4 } else { 2 };
        let offsets = (0..u32::try_from(input.channels).ok()?).collect::<Vec<_>>();
        let products = pack::Products {
            offsets: &offsets,
            columns: weights.columns,
            lanes: self.kernels.lanes,
            interleaved,
            factor: |i: usize, part: usize, column: usize| weights.get(column, parts * i + part),
        };
        let groups = if bytes { products.bytes() } else { products.halves() };
        let groups = self.packed_words(groups);
        Some(Integer::Product(Box::new(Product {
            input: input.at,
            in_image: 0,
            in_row: 0,
            in_pixel: input.pixel,
            bytes,
            groups,
            bias,
            ending,
            output,
        })))
    }

    pub(super) fn quantized_matmul(&mut self, node: &Node) -> Option<()> {
        let (a, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (zero_a, zero_y) = (self.zero_of(input(2))?, self.zero_of(input(7))?);
        self.scale_of(input(1))?;
        self.scale_of(input(6))?;
        let range = range(self.fact(output).datatype, zero_y)?;
        let b = input(3)?;
        (self.fact(b).rank() == 2).then_some(())?;
        let factors = self.factors(b, input(5), false)?;
        let bias = self.whole_bias(input(8), &factors)?;
        let from = self.words(a, Kind::Rows, zero_a)?;
        let how = self.requantise(node, factors.columns, range)?;
        let bias = self.bias_words(&bias, true);
        let to = self.word_map(&self.fact(output).shape, Kind::Rows, Halo::default(), false)?;
        let ending = Ending::Quantise { how, table: None };
        let step = self.rows_product(&from, false, &factors, bias, true, (ending, to))?;
        self.push(Step::Integer(step));
        self.set_integers(output, to, Kind::Rows, zero_y)
    }

    /// Whether a scaled product can take its first factor as rows of words.
    fn suits_rows(&self, node: &Node) -> bool {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let Op::ScaledMatMul(op) = &node.op else { return false };
        let function = op.activation.is_none_or(|activation| elementwise::function(activation).is_some());
        let (Some(b), Some(output)) = (input(1), node.outputs.first()) else { return false };
        let Some(factors) = self.factors(b, input(3), false) else { return false };
        let constant = |at: usize| input(at).is_none_or(|id| self.constant_of(Some(id)).is_some());
        let sums = self.whole_bias(None, &factors).is_some();
        function && sums && self.fact(b).rank() == 2 && constant(5) && constant(6) && self.is_f32(*output)
    }

    pub(super) fn dynamic_quantize(&mut self, node: &Node) -> Option<()> {
        let x = node.inputs.first().copied()??;
        let &[bytes, scale, zero] = node.outputs.as_slice() else { return None };
        let suits = |reader: &Node| {
            reader.inputs.first() == Some(&Some(bytes))
                && reader.inputs.get(2) == Some(&Some(zero))
                && self.suits_rows(reader)
        };
        let all = self.graph.nodes().iter().filter(|n| n.inputs.contains(&Some(bytes))).all(suits);
        let outputs = self.graph.outputs().iter().any(|(_, id)| [bytes, zero].contains(id));
        let only_zero = self
            .graph
            .nodes()
            .iter()
            .all(|n| !n.inputs.contains(&Some(zero)) || n.inputs.first() == Some(&Some(bytes)));
        let shape = &self.fact(x).shape;
        let (_, length, _, rows) = word_sizes(shape, Kind::Rows)?;
        (all && !outputs && only_zero && self.is_f32(x)).then_some(())?;
        let input = self.plain(x);
        let halves = self.word_map(shape, Kind::Rows, Halo::default(), false)?;
        let readers = self.graph.nodes().iter().filter(|n| n.inputs.first() == Some(&Some(bytes)));
        let as_bytes = self.kernels.bytes && readers.clone().all(|reader| self.suits_bytes(reader));
        let map = if as_bytes {
            // Four to a word: half the words, in half the lanes.
            let (lanes, pixel) = (halves.lanes / 2, halves.pixel / 2);
            let row = halves.row / 2;
            Map { channels: length.div_ceil(4), lanes, image: row, block: lanes, row, pixel, ..halves }
        } else {
            halves
        };
        let (scale, zero_at) = (self.new_plain(scale), self.new_plain(zero));
        let step = Integer::Cover { input, rows, length, output: map, bytes: as_bytes, scale, zero: zero_at };
        self.push(Step::Integer(step));
        let kept = as_bytes.then_some(map);
        self.set_words(bytes, Words { map, kind: Kind::Rows, zero: Zero::Of(zero), scale: 1.0, bytes: kept })
    }

    /// Whether the weights of a scaled product take less time as bytes.
    fn suits_bytes(&self, node: &Node) -> bool {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let Some(weights) = input(1).and_then(|b| self.factors(b, input(3), false)) else { return false };
        let offsets = vec![0; weights.inner.div_ceil(4)];
        let products = pack::Products {
            offsets: &offsets,
            columns: weights.columns,
            lanes: self.kernels.lanes,
            interleaved: false,
            factor: |i: usize, part: usize, column: usize| weights.get(column, 4 * i + part),
        };
        products.share() < SHARE
    }

    pub(super) fn scaled_matmul(&mut self, product: &ScaledMatMul, node: &Node) -> Option<()> {
        let (a, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        self.suits_rows(node).then_some(())?;
        let (from, zero) = match self.form(a).words {
            Some(Words { map, zero: Zero::Of(zero), bytes, .. }) => {
                (Some(zero) == input(2)).then_some(())?;
                (map, bytes.map(|_| zero))
            }
            _ => (self.words(a, Kind::Rows, self.zero_of(input(2))?)?, None),
        };
        let factors = self.factors(input(1)?, input(3), false)?;
        let (columns, lanes) = (factors.columns, self.kernels.lanes);
        let list = |lowering: &mut Self, items: &[f32]| {
            let packed = pack::by_pairs(columns, lanes, false, |column| {
                items.get(if items.len() == 1 { 0 } else { column }).copied().unwrap_or(0.0)
            });
            lowering.constants(&packed)
        };
        let scales = self.constant_of(input(5))?;
        let scales = list(self, scales);
        let summands = self.constant_of(input(6)).map(|items| list(self, items));
        let scale = self.operand(input(4)?);
        let residual = input(7).map(|id| self.plain(id));
        let bias = self.bias_words(&vec![0; columns], false);
        let function = match product.activation {
            Some(activation) => Some(elementwise::function(activation)?),
            None => None,
        };
        let rows = |at: At| Map {
            at,
            images: 1,
            channels: columns,
            rows: 1,
            columns: from.columns,
            lanes: columns,
            image: 0,
            block: 0,
            row: 0,
            pixel: columns,
            halo: Halo::default(),
        };
        let residual = residual.map(rows);
        let to = rows(self.new_plain(output));
        let zero = zero.map(|zero| {
            let sums: Vec<i32> = (0..columns).map(|column| factors.sum(column)).collect();
            (self.plain(zero), self.bias_words(&sums, false))
        });
        let ending = Ending::Scale { scale, factors: scales, zero, summands, residual, function };
        let step = self.rows_product(&from, zero.is_some(), &factors, bias, false, (ending, to))?;
        self.push(Step::Integer(step));
        Some(())
    }
}
