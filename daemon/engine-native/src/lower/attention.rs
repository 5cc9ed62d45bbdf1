//! Attention, head by head, so that the scores of a head stay near.

use agentd_plan::{Node, op::Attention};

use super::{Lowering, elementwise::strides, product::Product};
use crate::{
    pack,
    step::{Parts, Step, Weights},
};

impl Lowering<'_> {
    pub(super) fn attention(&mut self, attention: Attention, node: &Node) -> Option<()> {
        let id = |index: usize| node.inputs.get(index).copied().flatten();
        let (q, k, v, output) = (id(0)?, id(1)?, id(2)?, *node.outputs.first()?);
        let (&[batch, queries, features], &[_, keys, values]) =
            (self.fact(q).shape.as_slice(), self.fact(v).shape.as_slice())
        else {
            return None;
        };
        let heads = attention.heads;
        let (inner, columns) = (features / heads, values / heads);
        if !self.is_f32(q) || inner == 0 || columns == 0 || keys == 0 {
            return None;
        }
        let mask = match id(3) {
            Some(mask) => {
                let scores = [batch, heads, queries, keys];
                let strides = strides(&self.fact(mask).shape, &scores)?;
                // A mask that is one number for all keys has no kernel.
                (keys == 1 || strides.get(3) == Some(&1)).then_some(())?;
                Some((self.operand(mask), strides))
            }
            None => None,
        };
        let (q, k, v) = (self.plain(q), self.plain(k), self.plain(v));
        let to = self.new_plain(output);
        let packed = pack::packed_length(inner, keys, self.kernels.lanes);
        let (keys_of, scores) = (self.buffer(packed), self.buffer(queries.checked_mul(keys)?));
        let (no_keys, no_columns) = (self.no_bias(keys), self.no_bias(columns));
        for (image, head) in (0..batch).flat_map(|image| (0..heads).map(move |head| (image, head))) {
            self.push(Step::Pack {
                from: k.plus(image * keys * features + head * inner),
                row: 1,
                column: features,
                rows: inner,
                columns: keys,
                parts: Parts::ONE,
                to: keys_of,
                scale: attention.scale,
            });
            let products = Product {
                a: q.plus(image * queries * features + head * inner),
                a_row: features,
                rows: queries,
                inner,
                columns: keys,
                output: scores,
                out_row: keys,
            };
            let step = products.step(Weights::Computed { at: keys_of }, no_keys, Parts::ONE);
            self.push(Step::Convolve(Box::new(step)));
            let (mask, mask_row) = match &mask {
                Some((operand, strides)) => {
                    let [of_image, of_head, row, _] = *strides.as_slice() else { return None };
                    (Some(Self::operand_plus(*operand, image * of_image + head * of_head)), row)
                }
                None => (None, 0),
            };
            self.push(Step::Softmax {
                input: scores,
                output: scores,
                rows: queries,
                length: keys,
                scale: 1.0,
                mask,
                mask_row,
            });
            let weighted = Product {
                a: scores,
                a_row: keys,
                rows: queries,
                inner: keys,
                columns,
                output: to.plus(image * queries * values + head * columns),
                out_row: values,
            };
            let weights = Weights::Rows { at: v.plus(image * keys * values + head * columns), step: values };
            let step = weighted.step(weights, no_columns, Parts::ONE);
            self.push(Step::Convolve(Box::new(step)));
        }
        Some(())
    }
}
