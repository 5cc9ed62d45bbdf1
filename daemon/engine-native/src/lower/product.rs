//! Matrix products: rows are pixels, the inner size is the channels.

use agentd_plan::{Node, op::MatMul};

use super::Lowering;
use crate::{
    pack,
    step::{At, Convolve, Halo, Map, Operand, Parts, Step, Weights},
};

/// One product of plain matrices.
pub(super) struct Product {
    /// `rows x inner`.
    pub(super) a: At,
    /// From one row of a to the next.
    pub(super) a_row: usize,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
    /// `rows x columns`.
    pub(super) output: At,
    /// From one row of the output to the next.
    pub(super) out_row: usize,
}

impl Product {
    /// The rows of a plain matrix as a map of one row of pixels.
    pub(super) const fn rows_as_map(&self, at: At, row: usize) -> Map {
        Map {
            at,
            images: 1,
            channels: self.columns,
            rows: 1,
            columns: self.rows,
            lanes: self.columns,
            image: 0,
            block: 0,
            row: 0,
            pixel: row,
            halo: Halo { top: 0, left: 0, bottom: 0, right: 0 },
        }
    }

    pub(super) fn step(&self, weights: Weights, bias: usize, parts: Parts) -> Convolve {
        Convolve {
            parts,
            input: self.a,
            in_image: 0,
            in_row: 0,
            in_pixel: self.a_row,
            in_block: 0,
            channels: self.inner,
            channel_block: self.inner,
            taps: (1, 1),
            tap_row: 0,
            tap_column: 0,
            weights,
            bias,
            output: self.rows_as_map(self.output, self.out_row),
            residual: None,
            range: (f32::NEG_INFINITY, f32::INFINITY),
            function: None,
        }
    }
}

impl Lowering<'_> {
    #[expect(clippy::too_many_lines, reason = "one decision after the other about the same operands")]
    pub(super) fn product(&mut self, product: &MatMul, node: &Node) -> Option<()> {
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let output = *node.outputs.first()?;
        if !self.is_f32(a) || !self.is_f32(b) {
            return None;
        }
        let (range, function) = Self::ending(product.activation)?;
        let (a_shape, b_shape) = (&self.fact(a).shape, &self.fact(b).shape);
        let out_shape = &self.fact(output).shape;
        let [.., m, n] = *out_shape.as_slice() else { return None };
        let batch: usize = out_shape.iter().rev().skip(2).product();
        let inner = *if product.transpose_a { a_shape.iter().rev().nth(1)? } else { a_shape.last()? };
        if inner == 0 {
            return None;
        }
        let a_matrices: usize = a_shape.iter().rev().skip(2).product();
        let b_matrices: usize = b_shape.iter().rev().skip(2).product();
        let bias_id = node.inputs.get(2).copied().flatten();
        let residual_id = node.inputs.get(3).copied().flatten();
        // One bias number for each column, or none; anything else is a residual, where it has the output's shape.
        let mut bias_items = None;
        let mut residuals = Vec::new();
        for id in [bias_id, residual_id].into_iter().flatten() {
            let shape = &self.fact(id).shape;
            let per_column = shape.iter().product::<usize>() == n && shape.last() == Some(&n);
            match self.constant_of(Some(id)) {
                Some([one]) if bias_items.is_none() => bias_items = Some(vec![*one; n]),
                Some(items) if per_column && bias_items.is_none() => bias_items = Some(items.to_vec()),
                _ if shape == out_shape => residuals.push(id),
                _ => return None,
            }
        }
        if residuals.len() > 1 {
            return None;
        }
        let fixed = self.array_of(Some(b)).filter(|_| b_matrices == 1);
        let (rows, parts) = if fixed.is_some() && a_matrices == batch {
            (batch * m, Parts::ONE)
        } else {
            let matrices = |count: usize| count == batch || count == 1;
            (matrices(a_matrices) && matrices(b_matrices)).then_some(())?;
            let part = |count: usize, floats: usize| if count == 1 { 0 } else { floats };
            let parts = Parts {
                count: batch,
                input: part(a_matrices, m * inner),
                weights: part(b_matrices, inner * n),
                bias: 0,
                output: m * n,
            };
            (m, parts)
        };
        let bias = self.channel_constants(bias_items.as_deref(), n);
        let mut a_place = self.plain(a);
        if product.transpose_a {
            // The kernel reads rows; turning a matrix costs far less than reading it column by column for every tile.
            let rows = self.buffer(a_matrices.checked_mul(m)?.checked_mul(inner)?);
            let matrix = m * inner;
            let shape = [a_matrices, m, inner];
            self.copy(Operand::Buffer(a_place), rows, &shape, (&[matrix, 1, m], &[matrix, inner, 1]), 1);
            a_place = rows;
        }
        let (weights, parts) = if let Some(array) = fixed {
            let (kernels, scale, turned) = (self.kernels, product.alpha, product.transpose_b);
            let length = pack::packed_length(inner, n, kernels.lanes);
            let start = self.packed(array, length, move |to, items| {
                let pack = if turned { pack::pack_columns } else { pack::pack_rows };
                pack(to, items, (inner, n), scale, kernels);
            });
            (Weights::Packed { start }, Parts { weights: 0, ..parts })
        } else {
            let b_place = self.plain(b);
            #[expect(clippy::float_cmp, reason = "1 is exact")]
            if product.transpose_b || product.alpha != 1.0 {
                let (row, column) = if product.transpose_b { (1, inner) } else { (n, 1) };
                let packed = pack::packed_length(inner, n, self.kernels.lanes);
                let matrices = if parts.weights == 0 { 1 } else { batch };
                let to = self.buffer(packed.checked_mul(matrices)?);
                let packs =
                    Parts { count: matrices, input: parts.weights, weights: packed, bias: 0, output: 0 };
                self.push(Step::Pack {
                    from: b_place,
                    row,
                    column,
                    rows: inner,
                    columns: n,
                    parts: packs,
                    to,
                    scale: product.alpha,
                });
                let between = if matrices == 1 { 0 } else { packed };
                (Weights::Computed { at: to }, Parts { weights: between, ..parts })
            } else {
                (Weights::Rows { at: b_place, step: n }, parts)
            }
        };
        let residual = residuals.first().map(|id| self.plain(*id));
        let product = Product {
            a: a_place,
            a_row: inner,
            rows,
            inner,
            columns: n,
            output: self.new_plain(output),
            out_row: n,
        };
        let step = Convolve {
            residual: residual.map(|at| product.rows_as_map(at, n)),
            range,
            function,
            ..product.step(weights, bias, parts)
        };
        self.push(Step::Convolve(Box::new(step)));
        Some(())
    }

    /// Zeros for a product without bias.
    pub(super) fn no_bias(&mut self, columns: usize) -> usize {
        self.channel_constants(None, columns)
    }

    /// An operand further on.
    pub(super) const fn operand_plus(operand: Operand, floats: usize) -> Operand {
        match operand {
            Operand::Buffer(at) => Operand::Buffer(at.plus(floats)),
            Operand::Constant(start) => Operand::Constant(start + floats),
        }
    }
}
