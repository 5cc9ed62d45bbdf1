//! A worker process as an instance.

use std::time::Duration;

use agentd_engine::{EngineError, Tensor, TensorView};
use agentd_isolation::{Worker, WorkerError};
use agentd_types::{Coded, chain};

use crate::{Instance, InstanceError};

impl Instance for Worker {
    async fn infer(
        &mut self,
        inputs: &[TensorView<'_>],
        deadline: Duration,
    ) -> Result<Vec<Tensor>, InstanceError> {
        Self::infer(self, inputs, deadline).await.map_err(InstanceError::from)
    }

    fn pid(&self) -> Option<u32> {
        Some(Self::pid(self))
    }
}

impl From<WorkerError> for InstanceError {
    fn from(error: WorkerError) -> Self {
        let (code, message) = (error.code(), chain(&error));
        match error {
            WorkerError::Engine(EngineError::Input { .. }) => Self::Input { code, message },
            // Too large for the limits of the boundary, which the request's own limits mirror.
            WorkerError::TooLarge { what: "request", .. } => Self::Input { code, message },
            WorkerError::Deadline { .. } => Self::Late { code, message },
            WorkerError::Died { .. } | WorkerError::Protocol { .. } => Self::Died { code, message },
            WorkerError::Engine(_)
            | WorkerError::TooLarge { .. }
            | WorkerError::NoModel
            | WorkerError::System { .. } => Self::Failed { code, message },
        }
    }
}
