//! The guard that runs before any worker sees a model: reads its structure and refuses what could hurt.
//!
//! In: the bytes of an ONNX file. Out: a [`ModelSummary`], or the first fault with a stable code.
//! Looks at structure only: it does not infer all shapes, so an engine still runs in a worker with limits. Takes
//! time linear in the file and memory of a small multiple of it, whatever the bytes are.

mod error;
mod graph;
mod interface;
mod recurrent;
mod scope;
mod shape;

use std::collections::BTreeMap;

use agentd_types::TensorSpec;

pub use error::ScanError;
pub use interface::InterfaceError;
pub use recurrent::Recurrence;

use crate::{
    operators,
    proto::{model, opset},
    wire::{Span, WireError},
};

/// What a model may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Bytes of the file; protobuf itself allows 2 GiB.
    pub bytes: u64,
    /// Nodes in all graphs together.
    pub nodes: usize,
    /// Names that nodes, weights and inputs define, in all graphs together.
    pub names: usize,
    /// Graphs within graphs; 1 is the main graph alone.
    pub depth: usize,
    /// Inputs and outputs of the model.
    pub interface: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Different operators.
    pub operators: usize,
    /// Lowest and highest version of the standard operators.
    pub opset: (i64, i64),
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            nodes: 200_000,
            names: 500_000,
            depth: 8,
            interface: 256,
            name_bytes: 1_024,
            operators: 1_024,
            opset: (6, 28),
        }
    }
}

/// What a model is, as far as its structure tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// The program that wrote the file, with its version; may be empty.
    pub producer: String,
    /// Version of each operator set by domain; the standard one is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// The model's inputs without those that have a default; -1 is a free dimension.
    ///
    /// A feature dimension that recurrent weights fix is fixed here, even where the file leaves it free.
    pub inputs: Vec<TensorSpec>,
    /// The model's outputs as the file claims them; -1 is a free dimension.
    pub outputs: Vec<TensorSpec>,
    /// Outputs for which the file claims no shape; theirs in `outputs` is empty.
    pub unranked_outputs: Vec<String>,
    /// How often each operator stands in the model: `Conv`, `com.microsoft:QGemm`.
    pub operators: BTreeMap<String, usize>,
    /// Operators that neither ONNX nor ONNX Runtime defines.
    pub unknown_operators: Vec<String>,
    /// Nodes in all graphs together.
    pub nodes: usize,
    /// Elements of all weights; integers of 32 and 64 bits, booleans and strings, which hold shapes and indices, are
    /// left out.
    pub parameters: u64,
    /// Whether an operator keeps state from step to step: LSTM, GRU, RNN, Scan, Loop.
    pub recurrent: bool,
    /// The LSTM, GRU and RNN nodes, and whether their input was proved to fit their weights.
    pub recurrences: Vec<Recurrence>,
}

/// Reads the structure of an ONNX file.
///
/// # Errors
/// The first fault: no protobuf, out of `limits`, a name that nothing defines, weights that do not match their claims,
/// data outside the file, attributes out of bounds, functions, sparse tensors, inputs or outputs that are no tensors.
pub fn scan(file: &[u8], limits: &ScanLimits) -> Result<ModelSummary, ScanError> {
    let bytes = file.len() as u64;
    if bytes > limits.bytes {
        return Err(ScanError::Size { bytes, limit: limits.bytes });
    }
    let header = Header::read(Span::file(file))?;
    header.check(limits)?;
    let main = header.graph.ok_or(ScanError::NoGraph)?;
    let domains = header.opsets.iter().map(|(domain, _)| *domain).collect();
    let mut found = graph::Scanner::new(limits, domains).run(main)?;
    found.summary.producer = header.producer();
    found.summary.opsets =
        header.opsets.iter().map(|(name, v)| (shown_domain(name).to_owned(), *v)).collect();
    found.summary.unknown_operators = found.unknown();
    Ok(found.summary)
}

/// The outermost message of an ONNX file.
#[derive(Default)]
struct Header<'a> {
    ir_version: Option<u64>,
    producer: Option<&'a str>,
    producer_version: Option<&'a str>,
    /// Domain (the standard one is empty) and version.
    opsets: Vec<(&'a str, i64)>,
    graph: Option<Span<'a>>,
    functions: bool,
    training: bool,
}

impl<'a> Header<'a> {
    fn read(file: Span<'a>) -> Result<Self, WireError> {
        let mut header = Self::default();
        for field in file.fields() {
            let field = field?;
            match field.number {
                model::IR_VERSION => field.once(&mut header.ir_version, field.varint()?)?,
                model::PRODUCER_NAME => field.once(&mut header.producer, field.text()?)?,
                model::PRODUCER_VERSION => field.once(&mut header.producer_version, field.text()?)?,
                model::GRAPH => field.once(&mut header.graph, field.bytes()?)?,
                model::OPSET_IMPORT => header.opsets.push(read_opset(field.bytes()?)?),
                model::FUNCTIONS => header.functions = true,
                model::TRAINING_INFO => header.training = true,
                _ => {}
            }
        }
        Ok(header)
    }

    fn check(&self, limits: &ScanLimits) -> Result<(), ScanError> {
        let ir_version = self.ir_version.unwrap_or_default();
        if !(3..=20).contains(&ir_version) {
            return Err(ScanError::IrVersion(ir_version));
        }
        if self.functions {
            return Err(ScanError::Functions);
        }
        if self.training {
            return Err(ScanError::Training);
        }
        let known = |domain: &str| operators::DOMAINS.contains(&domain);
        for (position, (domain, version)) in self.opsets.iter().enumerate() {
            let bounds = if domain.is_empty() { limits.opset } else { (1, 100) };
            // A domain of which no node makes use harms nobody; nodes of other domains are refused one by one.
            if known(domain) && !(bounds.0..=bounds.1).contains(version) {
                let domain = shown_domain(domain).to_owned();
                return Err(ScanError::Opset { domain, version: *version, bounds });
            }
            if position >= 64 {
                return Err(ScanError::TooMany { what: "operator sets", limit: 64 });
            }
            if self.opsets.iter().take(position).any(|(other, _)| other == domain) {
                return Err(ScanError::Duplicate { name: error::shown(domain), what: "operator set" });
            }
        }
        Ok(())
    }

    fn producer(&self) -> String {
        let text = [self.producer, self.producer_version].map(Option::unwrap_or_default).join(" ");
        error::shown(text.trim())
    }
}

fn read_opset(import: Span<'_>) -> Result<(&str, i64), WireError> {
    let (mut domain, mut version) = (None, None);
    for field in import.fields() {
        let field = field?;
        match field.number {
            opset::DOMAIN => field.once(&mut domain, field.text()?)?,
            opset::VERSION => field.once(&mut version, field.varint()?.cast_signed())?,
            _ => {}
        }
    }
    Ok((plain_domain(domain.unwrap_or_default()), version.unwrap_or_default()))
}

/// The standard domain has two spellings; ours is the empty one.
fn plain_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn shown_domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}
