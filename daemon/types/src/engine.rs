//! Engines and the settings in which they are measured.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Something that runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// tract on the processor; always there.
    Cpu,
    /// Our own kernels on the processor.
    Native,
    /// wgpu on a graphics adapter.
    Gpu,
    /// ONNX Runtime, when its library is installed.
    Ort,
}

impl EngineKind {
    /// The engines that every worker brings, in the order in which they are tried.
    pub const BUILT_IN: [Self; 2] = [Self::Native, Self::Cpu];

    /// The name in documents, receipts and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Native => "native",
            Self::Gpu => "gpu",
            Self::Ort => "ort",
        }
    }

    /// Whether this engine is meant where `named` is written: in documents and profiles `cpu` says "on the processor
    /// with what agentd brings", so it means [`Self::Native`] too. Every other name means itself alone.
    pub fn is_meant_by(self, named: Self) -> bool {
        self == named || (self == Self::Native && named == Self::Cpu)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The engine or setting is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an engine: it is one of cpu, native, gpu, ort")]
pub struct SettingError(String);

impl FromStr for EngineKind {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "native" => Ok(Self::Native),
            "gpu" => Ok(Self::Gpu),
            "ort" => Ok(Self::Ort),
            other => Err(SettingError(other.chars().take(40).collect())),
        }
    }
}

/// One way to run a model: what placement measures and serving uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// The engine.
    pub engine: EngineKind,
    /// Threads that work on one inference, at least 1.
    pub threads: u16,
    /// Samples in one inference, at least 1; above 1 the model's first input dimension is free.
    pub batch: u16,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} thr", self.engine, self.threads)?;
        if self.batch > 1 { write!(f, " batch {}", self.batch) } else { Ok(()) }
    }
}
