//! Every engine that this worker has.

use agentd_engine::{Engine as _, EngineError, LoadSpec, Session};
use agentd_engine_native::Native;
use agentd_engine_tract::Tract;
use agentd_isolation::host::Host;
use agentd_types::{Adapter, EngineKind};

/// The engines: our own kernels and tract for models, wgpu for the list of adapters.
#[derive(Debug, Default)]
pub struct Engines {
    native: Native,
    tract: Tract,
}

impl Host for Engines {
    fn prepare(&mut self, spec: &LoadSpec) -> Result<(), EngineError> {
        match spec.setting.engine {
            EngineKind::Native => self.native.prepare(spec.setting.threads),
            EngineKind::Cpu => self.tract.prepare(spec.setting.threads),
            engine @ (EngineKind::Gpu | EngineKind::Ort) => Err(no_such(engine)),
        }
    }

    fn load(&mut self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        match spec.setting.engine {
            EngineKind::Native => self.native.load(model, spec),
            EngineKind::Cpu => self.tract.load(model, spec),
            engine @ (EngineKind::Gpu | EngineKind::Ort) => Err(no_such(engine)),
        }
    }

    fn adapters(&mut self) -> Vec<Adapter> {
        agentd_engine_wgpu::adapters()
    }
}

fn no_such(engine: EngineKind) -> EngineError {
    EngineError::Unsupported { engine, reason: "this worker has no such engine".into() }
}
