//! Measures with real worker processes.

use std::time::Duration;

use agentd_engine::{LoadSpec, Loaded, Tensor};
use agentd_isolation::{Limits, MeasureBudget, ModelFile, Program, Worker};
use agentd_types::{ByteCount, Coded, chain};

use crate::{Bench, Failure, Runner, Samples, Times};

/// Starts a worker process for each setting and hands it the model.
#[derive(Clone, Copy, Debug)]
pub struct WorkerBench<'a> {
    /// The worker program.
    pub program: &'a Program,
    /// What each worker may use.
    pub limits: &'a Limits,
    /// The model's bytes, already scanned.
    pub model: &'a ModelFile,
}

/// A worker process and the model that it measures.
#[derive(Debug)]
pub struct WorkerRunner<'a> {
    worker: Worker,
    model: &'a ModelFile,
}

impl<'a> Bench for WorkerBench<'a> {
    type Runner = WorkerRunner<'a>;

    async fn start(&self) -> Result<WorkerRunner<'a>, Failure> {
        let worker = Worker::start(self.program, self.limits).await.map_err(failure)?;
        Ok(WorkerRunner { worker, model: self.model })
    }
}

impl Runner for WorkerRunner<'_> {
    async fn load(&mut self, spec: &LoadSpec, deadline: Duration) -> Result<Loaded, Failure> {
        self.worker.load(self.model, spec, deadline).await.map_err(failure)
    }

    async fn infer(&mut self, inputs: &[Tensor], deadline: Duration) -> Result<Vec<Tensor>, Failure> {
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        self.worker.infer(&views, deadline).await.map_err(failure)
    }

    async fn measure(
        &mut self,
        inputs: &[Tensor],
        warm_up: u32,
        times: &Times,
        deadline: Duration,
    ) -> Result<Samples, Failure> {
        let budget = MeasureBudget { warm_up_runs: warm_up, max_runs: times.max_runs, time: times.measure };
        let measured = self.worker.measure(inputs, &budget, deadline).await.map_err(failure)?;
        Ok(Samples { latencies_us: measured.latencies_us, wall: measured.wall })
    }

    fn peak_memory(&self) -> ByteCount {
        self.worker.memory().peak
    }

    async fn stop(self) {
        self.worker.stop().await;
    }
}

fn failure(error: impl Coded) -> Failure {
    Failure { code: error.code(), message: chain(&error) }
}
