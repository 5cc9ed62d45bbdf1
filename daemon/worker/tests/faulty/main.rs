//! A worker that fails as the model asks, for tests of what stands around it.
//!
//! In: a model whose graph is named `agentd-fault:KIND`. Out: that fault, when a request comes; for a kind that ends in
//! `-at-load`, when it is loaded; for one that ends in `-at-mark`, when the first input begins with the number 666, so
//! that the model is well until somebody asks for the fault. Other models run as in the real worker.
#![allow(unsafe_code, reason = "one of the faults is an invalid memory access")]

use std::process::ExitCode;

use agentd_engine::{EngineError, LoadSpec, Loaded, Session, Tensor, TensorView};
use agentd_isolation::host::Host;
use agentd_types::{Adapter, Datatype};
use agentd_worker::Engines;

const PREFIX: &[u8] = b"agentd-fault:";
/// The number that makes a model fail whose fault waits for it.
const MARK: f32 = 666.0;

fn main() -> ExitCode {
    agentd_worker::main(Faulty)
}

struct Faulty(Engines);

impl Host for Faulty {
    fn prepare(&mut self, spec: &LoadSpec) -> Result<(), EngineError> {
        self.0.prepare(spec)
    }

    fn load(&mut self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        let fault = fault(model);
        if let Some(fault) = fault.as_deref().and_then(|fault| fault.strip_suffix("-at-load")) {
            commit(fault);
        }
        let session = self.0.load(model, spec)?;
        Ok(match fault {
            Some(fault) => Box::new(FaultySession { session, fault, asked: 0 }),
            None => session,
        })
    }

    fn adapters(&mut self) -> Vec<Adapter> {
        self.0.adapters()
    }
}

/// The fault that a model asks for.
fn fault(model: &[u8]) -> Option<String> {
    let start = model.windows(PREFIX.len()).position(|window| window == PREFIX)? + PREFIX.len();
    let name = model.get(start..)?.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'-');
    Some(name.map(|byte| char::from(*byte)).collect())
}

#[derive(Debug)]
struct FaultySession {
    session: Box<dyn Session>,
    fault: String,
    asked: u32,
}

impl Session for FaultySession {
    fn loaded(&self) -> Loaded {
        self.session.loaded()
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError> {
        self.asked += 1;
        let fault = match self.fault.strip_suffix("-at-mark") {
            Some(_) if !is_marked(inputs) => return self.session.run(inputs),
            Some(fault) => fault,
            None => self.fault.as_str(),
        };
        match fault {
            "nan" => {
                let outputs = self.session.run(inputs)?;
                Ok(outputs.into_iter().map(spoiled).collect())
            }
            "panic-once" if self.asked > 1 => self.session.run(inputs),
            "hang-later" if self.asked < 5 => self.session.run(inputs),
            fault => {
                commit(fault);
                self.session.run(inputs)
            }
        }
    }
}

fn is_marked(inputs: &[TensorView<'_>]) -> bool {
    let first = inputs.first().and_then(|input| input.bytes.first_chunk());
    first.is_some_and(|bytes| f32::from_le_bytes(*bytes).to_bits() == MARK.to_bits())
}

/// The same tensor with a NaN as its last element.
fn spoiled(tensor: Tensor) -> Tensor {
    let mut bytes = tensor.bytes.to_vec();
    if let (Datatype::Fp32, Some(last)) = (tensor.datatype, bytes.last_chunk_mut::<4>()) {
        *last = f32::NAN.to_le_bytes();
    }
    Tensor { bytes: bytes.into(), ..tensor }
}

#[expect(clippy::panic, reason = "one of the faults")]
fn commit(fault: &str) {
    match fault {
        "panic" | "panic-once" => panic!("the model asked for a panic"),
        "abort" => std::process::abort(),
        "hang" | "hang-later" => loop {
            std::hint::spin_loop();
        },
        "sleep" => std::thread::park_timeout(std::time::Duration::from_millis(300)),
        "allocate" => {
            let mut heap = Vec::new();
            loop {
                heap.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&heap);
            }
        }
        "overflow" => drop(std::hint::black_box(deeper(0))),
        "crash" => {
            // SAFETY: none; address 8 is never mapped, so this ends the process, which is the point.
            unsafe { std::ptr::without_provenance_mut::<u64>(8).write_volatile(1) }
        }
        _ => {}
    }
}

#[expect(unconditional_recursion, reason = "one of the faults")]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + frame.iter().sum::<u64>()
}
