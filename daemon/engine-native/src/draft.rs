//! A model that is planned but takes no memory yet.
//!
//! In: a fused [`Graph`]. Out: what the model will need, told before any weights are packed; then the [`Model`].

use std::sync::Arc;

use agentd_plan::Graph;

use crate::{
    error::LowerError,
    lower::{self, Options},
    model::Model,
};

/// Steps and places for a graph; its weights are still those of the graph.
#[derive(Debug)]
pub struct Draft {
    draft: lower::Draft,
    memory: Memory,
}

/// Bytes that a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Values in the making, for one run.
    pub arena: u64,
    /// Packed weights and other constants.
    pub constants: u64,
    /// Elements of the graph's own constants that are needed while it runs.
    pub graph: u64,
    /// The most that is allocated at any time from the graph to its runs: the graph's weights beside the place for the
    /// packed ones, or all that a run needs. This is what a process may be limited in.
    pub peak: u64,
    /// The most that is in pages at any time: weights are dropped as they are packed.
    pub resident: u64,
}

impl Memory {
    /// Bytes once the model is loaded.
    pub const fn held(&self) -> u64 {
        self.arena.saturating_add(self.constants).saturating_add(self.graph)
    }

    fn of(draft: &lower::Draft) -> Self {
        const FLOAT: u64 = size_of::<f32>() as u64;
        let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let (graph, plan) = (&draft.plan.graph, &draft.plan);
        let kept = lower::kept(graph, plan);
        let kept = kept.iter().filter(|id| graph.value(**id).constant.is_some());
        let kept: usize = kept.map(|id| graph.value(*id).fact.bytes()).sum();
        let mut memory = Self {
            arena: bytes(plan.arena).saturating_mul(FLOAT),
            constants: bytes(draft.constants.len()).saturating_mul(FLOAT),
            graph: bytes(kept),
            peak: 0,
            resident: 0,
        };
        let weights = bytes(graph.constant_bytes());
        memory.peak = memory.held().max(weights.saturating_add(memory.constants));
        memory.resident = memory.held().max(weights).max(bytes(draft.constants.peak(kept)));
        memory
    }
}

impl Draft {
    /// Plans `graph`. Weights are dropped as they are packed, unless the caller holds the graph too.
    ///
    /// # Errors
    /// [`LowerError`].
    pub fn new(graph: Arc<Graph>, options: Options) -> Result<Self, LowerError> {
        let draft = lower::draft(graph, options)?;
        let memory = Memory::of(&draft);
        Ok(Self { draft, memory })
    }

    /// What the model will need.
    pub const fn memory(&self) -> Memory {
        self.memory
    }

    /// Packs the weights, proves the plan, and allocates its arena.
    ///
    /// # Errors
    /// [`LowerError::Verify`], which would be a defect of ours.
    pub fn build(self) -> Result<Model, LowerError> {
        Ok(Model::of(lower::complete(self.draft)?, self.memory))
    }
}
