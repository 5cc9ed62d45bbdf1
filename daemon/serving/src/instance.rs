//! What serving needs of something that runs a model: one inference at a time, and a replacement when it dies.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use agentd_engine::{Tensor, TensorView};
use agentd_types::{Code, Coded};

/// One loaded copy of a model version; it answers one request at a time.
///
/// Inference is pure: the same inputs give the same outputs, whatever was asked before.
pub trait Instance: Send + 'static {
    /// Answers one request.
    ///
    /// `inputs`: in the order of the version's inputs. `deadline`: the longest time the model may compute; an
    /// instance that misses it is given up. Returns the outputs in the order of the version's outputs. The future
    /// is always driven to its end, also when the caller has gone.
    ///
    /// # Errors
    /// [`InstanceError::is_dead`] says whether the instance can be asked again.
    fn infer(
        &mut self,
        inputs: &[TensorView<'_>],
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<Tensor>, InstanceError>> + Send;

    /// The process that holds the model, for the memory metric; `None` when it is not a process of its own.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// Why an instance gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// An input does not fit the model, as the engine found; the caller's fault.
    #[error("{message}")]
    Input {
        /// The engine's code.
        code: Code,
        /// The engine's words.
        message: String,
    },
    /// The engine failed on this request; the instance can be asked again.
    #[error("{message}")]
    Failed {
        /// The engine's code.
        code: Code,
        /// The engine's words.
        message: String,
    },
    /// The instance is gone: it crashed, was killed or broke its protocol.
    #[error("{message}")]
    Died {
        /// What happened to it.
        code: Code,
        /// The same for people.
        message: String,
    },
    /// The instance computed beyond its deadline and was given up.
    #[error("{message}")]
    Late {
        /// What happened to it.
        code: Code,
        /// The same for people.
        message: String,
    },
}

impl InstanceError {
    /// Whether the instance must not be asked again.
    pub const fn is_dead(&self) -> bool {
        matches!(self, Self::Died { .. } | Self::Late { .. })
    }
}

impl Coded for InstanceError {
    fn code(&self) -> Code {
        match self {
            Self::Input { code, .. }
            | Self::Failed { code, .. }
            | Self::Died { code, .. }
            | Self::Late { code, .. } => code.clone(),
        }
    }

    fn is_transient(&self) -> bool {
        self.is_dead()
    }
}

/// A future that [`Respawn`] returns.
pub type Respawning<I> = Pin<Box<dyn Future<Output = Result<I, InstanceError>> + Send>>;

/// Makes a fresh instance of one model version in place of a dead one.
///
/// Serving calls it from a task of its own, one call at a time for each lost instance, and backs off from 1 s to
/// 60 s while it fails.
pub trait Respawn<I>: Send + Sync {
    /// Starts and warms one more instance.
    fn respawn(&self) -> Respawning<I>;
}

impl<I, F> Respawn<I> for F
where
    F: Fn() -> Respawning<I> + Send + Sync,
{
    fn respawn(&self) -> Respawning<I> {
        self()
    }
}

impl<I> fmt::Debug for dyn Respawn<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Respawn")
    }
}
