//! The CPU engine that is always there: tract.
//!
//! In: the bytes of an ONNX file, already scanned, and the specs of its inputs and outputs. Out: a session that runs
//! plans compiled for the concrete shapes of each request. Opens no file, reads no environment, and refuses what
//! tract would get wrong silently. Runs in a worker process: tract panics on some hostile models.

mod graph;
mod plan;
mod recurrent;
mod session;
mod tensor;

use std::panic::catch_unwind;

use agentd_engine::{Engine, EngineError, LoadSpec, Session};
use agentd_types::EngineKind;
use tract_linalg::multithread::Executor;

use graph::Graph;
use session::TractSession;

/// Threads that one inference may use at most.
const MAX_THREADS: u16 = 256;

/// tract on the processor.
#[derive(Debug, Default)]
pub struct Tract {
    /// Threads that were started ahead, and how many they are.
    threads: Option<(u16, Executor)>,
}

impl Tract {
    /// An engine that has started no threads yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the threads that sessions with `threads` threads use; 1 needs none.
    ///
    /// [`Engine::load`] starts its own where this was not called with the same number before.
    ///
    /// # Errors
    /// When there are too many, or the system does not grant them.
    pub fn prepare(&mut self, threads: u16) -> Result<(), EngineError> {
        if threads > 1 && self.threads.as_ref().is_none_or(|(held, _)| *held != threads) {
            self.threads = Some((threads, executor(threads)?));
        }
        Ok(())
    }
}

impl Engine for Tract {
    fn kind(&self) -> EngineKind {
        EngineKind::Cpu
    }

    fn load(&self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        let setting = spec.setting;
        if setting.engine != EngineKind::Cpu {
            return Err(unsupported(format!("it is not the {} engine", setting.engine)));
        }
        let first_is_free = spec.inputs.first().is_some_and(|input| input.shape.first() == Some(&-1));
        if setting.batch > 1 && !first_is_free {
            return Err(unsupported("the model's first dimension is fixed, so it takes no batches".into()));
        }
        let executor = match (&self.threads, setting.threads) {
            (_, 0 | 1) => None,
            (Some((held, executor)), threads) if *held == threads => Some(executor.clone()),
            (_, threads) => Some(executor(threads)?),
        };
        let graph = Graph::read(model, spec)?;
        Ok(Box::new(TractSession::new(graph, spec, executor)?))
    }
}

fn executor(threads: u16) -> Result<Executor, EngineError> {
    if threads > MAX_THREADS {
        return Err(unsupported(format!("{threads} threads are more than {MAX_THREADS}")));
    }
    // It panics when the system grants no thread.
    catch_unwind(|| Executor::multithread(usize::from(threads)))
        .map_err(|_| unsupported(format!("the system does not grant {threads} threads")))
}

fn unsupported(reason: String) -> EngineError {
    EngineError::Unsupported { engine: EngineKind::Cpu, reason }
}

fn load_error(reason: String) -> EngineError {
    EngineError::Load { engine: EngineKind::Cpu, reason }
}

/// tract's error with its causes, of bounded length.
fn words(error: &tract_onnx::prelude::TractError) -> String {
    let text = format!("{error:#}");
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
