//! The trait behind which an engine stands.

use std::{fmt::Debug, time::Duration};

use agentd_types::{ByteCount, Code, Coded, EngineKind, Setting, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::{Profile, Tensor, TensorView};

/// Something that runs models in this process.
pub trait Engine: Debug {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// Turns an ONNX file into a session.
    ///
    /// `model`: the file's bytes, already scanned. `spec`: inputs and outputs that the session must have.
    ///
    /// # Errors
    /// When the model does not load in that setting.
    fn load(&self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError>;
}

/// What a session shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// Engine, threads and batch.
    pub setting: Setting,
    /// The model's inputs in the order in which they are given; -1 is a free dimension.
    pub inputs: Vec<TensorSpec>,
    /// The outputs in the order in which they are wanted; -1 is a free dimension.
    pub outputs: Vec<TensorSpec>,
}

/// What is known once a model is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Time from the model's bytes to a session that answers.
    pub load_time: Duration,
    /// Memory of the process at its peak so far.
    pub peak_memory: ByteCount,
    /// Nodes that the engine handed to another one.
    pub fallback_nodes: u32,
    /// Whether the model has recurrent state, so that no state is kept between requests.
    pub recurrent: bool,
    /// Threads that work on one request: fewer than the setting asks for where the system grants no more.
    pub threads: u16,
}

/// A model that is loaded and answers.
///
/// The same inputs give the same outputs, whatever was asked before: no request leaves a trace in the next.
pub trait Session: Debug {
    /// What the engine found while loading.
    fn loaded(&self) -> Loaded;

    /// Answers one request. `inputs` are in the order of the [`LoadSpec`], as are the outputs returned.
    ///
    /// # Errors
    /// When an input does not fit or the engine fails; the session can be asked again. The same holds after a panic,
    /// which the worker turns into an error: what a run leaves half done must not be used by the next.
    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError>;

    /// Runs these inputs again and again for `time` and measures every step; `None`: the engine does not show its steps.
    ///
    /// # Errors
    /// As for [`Session::run`].
    fn profile(
        &mut self,
        _inputs: &[TensorView<'_>],
        _time: Duration,
    ) -> Result<Option<Profile>, EngineError> {
        Ok(None)
    }
}

/// Why an engine could not load or run a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EngineError {
    /// The model cannot be loaded by this engine.
    #[error("the {engine} engine cannot load the model: {reason}")]
    Load {
        /// The engine.
        engine: EngineKind,
        /// The engine's own words.
        reason: String,
    },
    /// The setting is not one this engine has.
    #[error("the {engine} engine does not offer this: {reason}")]
    Unsupported {
        /// The engine.
        engine: EngineKind,
        /// What is not offered.
        reason: String,
    },
    /// The model needs more memory than there is; known before any is taken.
    #[error("the {engine} engine needs {needed} for the model, of which it has {limit}")]
    Memory {
        /// The engine.
        engine: EngineKind,
        /// What it would need at most.
        needed: ByteCount,
        /// What it may take.
        limit: ByteCount,
    },
    /// An input does not fit the model.
    #[error("input `{name}`: {reason}")]
    Input {
        /// The input.
        name: String,
        /// Why it does not fit.
        reason: String,
    },
    /// The engine failed while running.
    #[error("the {engine} engine failed while running the model: {reason}")]
    Run {
        /// The engine.
        engine: EngineKind,
        /// The engine's own words.
        reason: String,
    },
}

/// Holds the inputs of a request against the specs: their number, datatypes, shapes and bytes.
///
/// # Errors
/// For the first input that does not fit.
pub fn check_inputs(specs: &[TensorSpec], inputs: &[TensorView<'_>]) -> Result<(), EngineError> {
    if let Some(missing) = specs.get(inputs.len()) {
        return Err(EngineError::Input { name: missing.name.clone(), reason: "it is missing".into() });
    }
    if inputs.len() > specs.len() {
        let reason = format!("{} inputs where the model takes {}", inputs.len(), specs.len());
        return Err(EngineError::Input { name: String::new(), reason });
    }
    for (spec, input) in specs.iter().zip(inputs) {
        let refuse = |reason| Err(EngineError::Input { name: spec.name.clone(), reason });
        if input.datatype != spec.datatype {
            return refuse(format!("{} where the model takes {}", input.datatype, spec.datatype));
        }
        if !spec.accepts(input.shape) {
            return refuse(format!("shape {:?} where the model takes {:?}", input.shape, spec.shape));
        }
        if let Err(error) = input.check() {
            return refuse(error.to_string());
        }
    }
    Ok(())
}

impl Coded for EngineError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Load { .. } => "engine.load",
            Self::Unsupported { .. } => "engine.unsupported",
            Self::Memory { .. } => "engine.memory",
            Self::Input { .. } => "engine.input",
            Self::Run { .. } => "engine.run",
        })
    }
}
