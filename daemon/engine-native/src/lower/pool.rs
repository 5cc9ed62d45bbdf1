//! Pooling.

use agentd_plan::{
    Node,
    op::{Pool, pool::PoolKind},
};

use super::{Lowering, convolution::plane, sizes};
use crate::step::{self, Step};

impl Lowering<'_> {
    pub(super) fn pool(&mut self, pool: &Pool, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let plane = plane(&pool.window)?;
        let maximum = match pool.kind {
            PoolKind::Max => true,
            PoolKind::Average { .. } => false,
            PoolKind::Lp { .. } => return None,
        };
        if pool.indices.is_some() || !self.is_f32(x) {
            return None;
        }
        let (_, _, rows, columns) = sizes(&self.fact(x).shape)?;
        let (_, _, out_rows, out_columns) = sizes(&self.fact(output).shape)?;
        // A window that lies in the padding alone is the interpreter's.
        plane.meets((rows, columns), (out_rows, out_columns)).then_some(())?;
        let divisor = if matches!(pool.kind, PoolKind::Average { count_padding: true }) {
            // A window that reaches beyond the padded border counts fewer: the interpreter does that.
            let inside = plane.ends_inside((rows, columns), (out_rows, out_columns));
            inside.then_some(())?;
            #[expect(clippy::cast_precision_loss, reason = "windows are far smaller than 2^24")]
            let taps = plane.count() as f32;
            taps
        } else {
            0.0
        };
        let input = self.map(x)?;
        let output = self.new_map(output)?;
        let all = plane.taps == (rows, columns) && (out_rows, out_columns) == (1, 1);
        if all && plane.padding == (0, 0) && plane.dilations == (1, 1) {
            self.push(Step::Whole { input, output, maximum });
            return Some(());
        }
        let step = step::Pool { input, output, maximum, plane, divisor };
        self.push(Step::Pool(Box::new(step)));
        Some(())
    }
}
