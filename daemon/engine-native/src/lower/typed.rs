//! Elements of several datatypes: casts, comparisons, choice, logic, whole numbers.

use agentd_plan::{
    Node, ValueId,
    op::{Binary, Compare, Logic},
};
use agentd_types::Datatype;

use super::{Lowering, elementwise::strides};
use crate::{
    kernel::elements::{Each, Kind, Truth, Whole},
    step::{Elements, Operand, Step, Turn},
};

/// The kernels' name of a datatype, where they know it.
const fn kind(datatype: Datatype) -> Option<Kind> {
    Some(match datatype {
        Datatype::Bool => Kind::Bool,
        Datatype::Uint8 => Kind::U8,
        Datatype::Int8 => Kind::I8,
        Datatype::Int32 => Kind::I32,
        Datatype::Int64 => Kind::I64,
        Datatype::Fp32 => Kind::F32,
        _ => return None,
    })
}

/// The kernels' function of whole numbers; a division must not be by 0.
const fn whole(binary: Binary) -> Option<Whole> {
    Some(match binary {
        Binary::Add => Whole::Add,
        Binary::Sub => Whole::Subtract,
        Binary::Mul => Whole::Multiply,
        Binary::Div => Whole::Divide,
        Binary::Max => Whole::Maximum,
        Binary::Min => Whole::Minimum,
        _ => return None,
    })
}

/// Loops over `shape` with neighbouring axes merged where all operands allow it; at least one.
fn turns(shape: &[usize], steps: &[Vec<usize>]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut out = 1;
    for (axis, count) in shape.iter().enumerate().rev() {
        let mut turn = Turn { count: *count, steps: [0; 3], out };
        for (slot, steps) in turn.steps.iter_mut().zip(steps) {
            *slot = steps.get(axis).copied().unwrap_or(0);
        }
        out *= count;
        let follows = |inner: &Turn| turn.steps.iter().zip(inner.steps).all(|(a, b)| *a == b * inner.count);
        match turns.last_mut() {
            _ if *count == 1 => {}
            Some(inner) if follows(inner) => inner.count *= count,
            _ => turns.push(turn),
        }
    }
    if turns.is_empty() {
        turns.push(Turn { count: 1, steps: [0; 3], out: 1 });
    }
    turns.reverse();
    turns
}

impl Lowering<'_> {
    /// The same function of each element, of operands that broadcast.
    fn each(&mut self, each: Each, ids: &[ValueId], output: ValueId) -> Option<()> {
        let shape = &self.fact(output).shape;
        let steps: Vec<Vec<usize>> =
            ids.iter().map(|id| strides(&self.fact(*id).shape, shape)).collect::<Option<_>>()?;
        let turns = turns(shape, &steps);
        let mut operands = [Operand::Constant(0); 3];
        for (slot, id) in operands.iter_mut().zip(ids) {
            *slot = self.operand(*id);
        }
        let output = self.new_plain(output);
        self.push(Step::Elements(Box::new(Elements { operands, output, turns, each })));
        Some(())
    }

    pub(super) fn cast(&mut self, to: Datatype, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let from = self.fact(x).datatype;
        if from == to {
            return self.reshape(node);
        }
        self.each(Each::Cast { from: kind(from)?, to: kind(to)? }, &[x], output)
    }

    pub(super) fn compare(&mut self, how: Compare, node: &Node) -> Option<()> {
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let of = kind(self.fact(a).datatype)?;
        self.each(Each::Compare { of, how }, &[a, b], *node.outputs.first()?)
    }

    pub(super) fn logic(&mut self, logic: Logic, node: &Node) -> Option<()> {
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let truth = match logic {
            Logic::And => Truth::And,
            Logic::Or => Truth::Or,
            Logic::Xor => Truth::Xor,
        };
        self.each(Each::Truth(truth), &[a, b], *node.outputs.first()?)
    }

    pub(super) fn choose(&mut self, node: &Node) -> Option<()> {
        let ids: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let output = *node.outputs.first()?;
        let size = self.fact(output).datatype.size().filter(|size| matches!(size, 1 | 4 | 8))?;
        self.each(Each::Choose(size), &ids, output)
    }

    /// A function of two whole numbers.
    pub(super) fn whole(&mut self, binary: Binary, node: &Node) -> Option<()> {
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let how = whole(binary)?;
        let wide = match self.fact(a).datatype {
            Datatype::Int64 => true,
            Datatype::Int32 => false,
            _ => return None,
        };
        if how == Whole::Divide {
            // Only where it is known that the interpreter would not refuse.
            let divisors = self.graph.value(b).constant.as_ref()?.ints().ok()?;
            divisors.iter().all(|divisor| *divisor != 0).then_some(())?;
        }
        self.each(Each::Whole { wide, how }, &[a, b], *node.outputs.first()?)
    }

    /// A truth value of each element.
    pub(super) fn truth(&mut self, each: Each, node: &Node) -> Option<()> {
        let x = node.inputs.first().copied()??;
        let fits = if each == Each::Not { self.fact(x).datatype == Datatype::Bool } else { self.is_f32(x) };
        fits.then_some(())?;
        self.each(each, &[x], *node.outputs.first()?)
    }
}
