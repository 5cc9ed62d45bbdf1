//! Every engine that this worker has.

use agentd_engine::{Engine as _, EngineError, LoadSpec, Session};
use agentd_engine_tract::Tract;
use agentd_isolation::host::Host;
use agentd_types::{Adapter, EngineKind};

/// The engines: tract for models, wgpu for the list of adapters.
#[derive(Debug, Default)]
pub struct Engines {
    tract: Tract,
}

impl Host for Engines {
    fn prepare(&mut self, spec: &LoadSpec) -> Result<(), EngineError> {
        match spec.setting.engine {
            EngineKind::Cpu => self.tract.prepare(spec.setting.threads),
            engine @ (EngineKind::Gpu | EngineKind::Ort) => {
                Err(EngineError::Unsupported { engine, reason: "this worker has no such engine".into() })
            }
        }
    }

    fn load(&mut self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        self.tract.load(model, spec)
    }

    fn adapters(&mut self) -> Vec<Adapter> {
        agentd_engine_wgpu::adapters()
    }
}
