//! A model as tract reads it, with inputs and outputs in the order that was asked for.
//!
//! Ignores what the file says of shapes inside and of its outputs, since exporters write symbols there that no
//! concrete input agrees with. Weights outside the file are not found, since tract gets no folder.

use agentd_engine::{EngineError, LoadSpec};
use agentd_types::TensorSpec;
use prost::Message as _;
use tract_onnx::{
    Onnx,
    pb::{GraphProto, ModelProto},
    prelude::{DatumType, Framework as _, InferenceFact, InferenceModel},
    tract_hir::infer::Factoid as _,
};

use crate::{load_error, recurrent, tensor, unsupported, words};

/// Missing operators that a message names.
const NAMED_OPERATORS: usize = 8;

/// A model that is read and not yet compiled for any shape.
#[derive(Debug)]
pub(crate) struct Graph {
    pub model: InferenceModel,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// The datatypes of the inputs in tract's words.
    pub input_types: Vec<DatumType>,
}

impl Graph {
    pub(crate) fn read(file: &[u8], spec: &LoadSpec) -> Result<Self, EngineError> {
        let input_types = spec
            .inputs
            .iter()
            .map(|input| datum_type(input).map_err(unsupported))
            .collect::<Result<_, _>>()?;
        let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
        let proto = ModelProto::decode(file).map_err(|error| load_error(error.to_string()))?;
        known_operators(&onnx, &proto)?;
        let mut model = onnx.model_for_proto_model(&proto).map_err(|error| load_error(words(&error)))?;
        drop(proto);
        Onnx::determinize(&mut model).map_err(|error| load_error(words(&error)))?;
        choose_inputs(&mut model, &spec.inputs).map_err(load_error)?;
        choose_outputs(&mut model, &spec.outputs).map_err(load_error)?;
        Ok(Self { model, inputs: spec.inputs.clone(), outputs: spec.outputs.clone(), input_types })
    }
}

fn datum_type(input: &TensorSpec) -> Result<DatumType, String> {
    tensor::datum_type(input.datatype)
        .ok_or_else(|| format!("input `{}` is of datatype {}, which tract lacks", input.name, input.datatype))
}

/// Refuses a model with operators that tract does not know, naming them, and recurrent ones inside branches and
/// loops, whose sizes nobody could hold against each other.
fn known_operators(onnx: &Onnx, proto: &ModelProto) -> Result<(), EngineError> {
    let mut missing: Vec<&str> = Vec::new();
    let mut graphs: Vec<(usize, &GraphProto)> = proto.graph.iter().map(|graph| (0, graph)).collect();
    while let Some((depth, graph)) = graphs.pop() {
        for node in &graph.node {
            if depth > 0 && recurrent::is_recurrent(&node.op_type) {
                return Err(load_error(format!(
                    "`{}` inside a branch or loop is not supported",
                    node.op_type
                )));
            }
            if !onnx.op_register.0.contains_key(&node.op_type) && !missing.contains(&node.op_type.as_str()) {
                missing.push(&node.op_type);
            }
            for attribute in &node.attribute {
                graphs.extend(attribute.g.iter().chain(&attribute.graphs).map(|graph| (depth + 1, graph)));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = missing.iter().take(NAMED_OPERATORS).map(|op| format!("`{op}`")).collect();
    let more = missing.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(load_error(format!("it has no operator {}{more}", named.join(", "))))
}

/// Puts the model's inputs in the order of the specs and holds what the file says of each against its spec.
fn choose_inputs(model: &mut InferenceModel, specs: &[TensorSpec]) -> Result<(), String> {
    let mut chosen = Vec::with_capacity(specs.len());
    for spec in specs {
        let outlet = model
            .inputs
            .iter()
            .find(|outlet| model.nodes.get(outlet.node).is_some_and(|node| node.name == spec.name))
            .ok_or_else(|| format!("it has no input `{}`", spec.name))?;
        let fact = model.outlet_fact(*outlet).map_err(|error| words(&error))?;
        fits(spec, fact)?;
        chosen.push(*outlet);
    }
    let unnamed = model.inputs.iter().find(|outlet| !chosen.contains(outlet));
    if let Some(node) = unnamed.and_then(|outlet| model.nodes.get(outlet.node)) {
        return Err(format!("its input `{}` is not among those described", node.name));
    }
    model.set_input_outlets(&chosen).map_err(|error| words(&error))
}

/// Whether the file and the spec of an input agree where both say something.
fn fits(spec: &TensorSpec, fact: &InferenceFact) -> Result<(), String> {
    let declared = fact.datum_type.concretize();
    if let Some(declared) = declared.filter(|declared| tensor::datum_type(spec.datatype) != Some(*declared)) {
        return Err(format!("its input `{}` is of datatype {declared:?}, not {}", spec.name, spec.datatype));
    }
    let rank = fact.shape.rank().concretize();
    if let Some(rank) = rank.filter(|rank| usize::try_from(*rank) != Ok(spec.shape.len())) {
        return Err(format!("its input `{}` has {rank} dimensions, not {}", spec.name, spec.shape.len()));
    }
    for (declared, dim) in fact.shape.dims().zip(&spec.shape) {
        // Some exporters write 0 for an open dimension.
        let declared = declared.concretize().and_then(|dim| dim.to_i64().ok());
        if let Some(declared) = declared.filter(|declared| *declared > 0 && declared != dim) {
            return Err(format!("its input `{}` has a dimension of {declared}, not {dim}", spec.name));
        }
    }
    Ok(())
}

/// Puts the outputs in the order of the specs; others are not computed.
fn choose_outputs(model: &mut InferenceModel, specs: &[TensorSpec]) -> Result<(), String> {
    let outlet = |spec: &TensorSpec| {
        let named =
            model.outputs.iter().find(|outlet| model.outlet_label(**outlet) == Some(spec.name.as_str()));
        named.copied().ok_or_else(|| format!("it has no output `{}`", spec.name))
    };
    let chosen = specs.iter().map(outlet).collect::<Result<Vec<_>, _>>()?;
    model.select_output_outlets(&chosen).map_err(|error| words(&error))
}
