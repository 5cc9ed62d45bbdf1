//! Which settings are worth measuring.
//!
//! In: the machine, what the bundle requires, the policy. Out: a [`Proposal`] for each setting, with the reason at once
//! for those that cannot serve whatever they measure. Nothing that a person may have expected is silently missing.

use agentd_types::{Code, EngineKind, Setting, TensorSpec};
use agentd_wire::{Objective, Requires, ServePolicy};

use crate::Machine;

/// Samples in one inference that are tried when throughput is wanted.
const BATCHES: [u16; 4] = [1, 4, 16, 64];

/// A setting that might serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The setting.
    pub setting: Setting,
    /// Why it cannot serve; `None`: measure it.
    pub ruled_out: Option<RuledOut>,
}

/// Why a setting cannot serve, known without measuring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuledOut {
    /// `engine.not_built`, `placement.no_adapter`, `placement.policy`, `placement.requires` or `placement.firmware`.
    pub code: Code,
    /// For people.
    pub reason: String,
}

/// Every setting worth a look, in the order in which they are measured: cheapest first, those ruled out last. Each
/// setting comes once.
///
/// Threads go 1, 2, 4 … up to the machine's limit, which is tried as well. Batches above 1 come only where the
/// objective is throughput and the first dimension of every input is free.
pub fn candidates(
    machine: &Machine,
    requires: &Requires,
    policy: &ServePolicy,
    inputs: &[TensorSpec],
) -> Vec<Proposal> {
    let free = !inputs.is_empty() && inputs.iter().all(|input| input.shape.first() == Some(&-1));
    let batches =
        if free && policy.objective == Objective::Throughput { &BATCHES[..] } else { &BATCHES[..1] };
    let mut proposals = Vec::new();
    for engine in [EngineKind::Native, EngineKind::Cpu, EngineKind::Ort, EngineKind::Gpu] {
        let settings = settings(engine, machine.threads, batches);
        match ruled_out(engine, machine, requires, policy) {
            // One line says it for all threads and batches.
            Some(_) if !worth_a_word(engine, machine, requires, policy) => {}
            Some(reason) => proposals.extend(
                settings
                    .into_iter()
                    .take(1)
                    .map(|setting| Proposal { setting, ruled_out: Some(reason.clone()) }),
            ),
            None => {
                proposals.extend(settings.into_iter().map(|setting| Proposal { setting, ruled_out: None }))
            }
        }
    }
    proposals.sort_by_key(|proposal| proposal.ruled_out.is_some());
    proposals
}

fn settings(engine: EngineKind, limit: u16, batches: &[u16]) -> Vec<Setting> {
    let threads = match engine {
        EngineKind::Native | EngineKind::Cpu | EngineKind::Ort => thread_counts(limit),
        EngineKind::Gpu => vec![1],
    };
    let settings = batches.iter().flat_map(|batch| {
        threads.iter().map(move |threads| Setting { engine, threads: *threads, batch: *batch })
    });
    settings.collect()
}

/// 1, 2, 4 … below `limit`, then `limit`.
fn thread_counts(limit: u16) -> Vec<u16> {
    let powers = std::iter::successors(Some(1_u16), |n| n.checked_mul(2));
    powers.take_while(|n| *n < limit).chain([limit.max(1)]).collect()
}

fn ruled_out(
    engine: EngineKind,
    machine: &Machine,
    requires: &Requires,
    policy: &ServePolicy,
) -> Option<RuledOut> {
    let because = |code, reason| Some(RuledOut { code: Code::new(code), reason });
    if !policy.allows(engine) {
        return because("placement.policy", format!("the policy allows {} only", list(&policy.engines)));
    }
    if !requires.any_of.is_empty() && !meant(&requires.any_of, engine) {
        return because("placement.requires", format!("the bundle is for {} only", list(&requires.any_of)));
    }
    if engine == EngineKind::Gpu && machine.adapters.is_empty() {
        return because("placement.no_adapter", "no graphics adapter found".to_owned());
    }
    if !machine.built.contains(&engine) {
        let found = if engine == EngineKind::Gpu { adapters(machine) } else { String::new() };
        return because("engine.not_built", format!("no {} engine in this build{found}", name(engine)));
    }
    if !meant(&machine.try_engines, engine) {
        return because("placement.firmware", "the firmware profile of this board leaves it out".to_owned());
    }
    if engine == EngineKind::Gpu && machine.adapters.iter().all(|(_, rejected)| rejected.is_some()) {
        return because("placement.no_adapter", format!("no usable graphics adapter{}", adapters(machine)));
    }
    None
}

/// Whether somebody would ask why the engine is not there: it was named, or a device for it was found, or it is the one
/// that always runs.
fn worth_a_word(engine: EngineKind, machine: &Machine, requires: &Requires, policy: &ServePolicy) -> bool {
    let named = policy.engines.contains(&engine) || requires.any_of.contains(&engine);
    named
        || match engine {
            EngineKind::Cpu => true,
            EngineKind::Gpu => !machine.adapters.is_empty(),
            EngineKind::Native | EngineKind::Ort => machine.built.contains(&engine),
        }
}

fn meant(named: &[EngineKind], engine: EngineKind) -> bool {
    named.iter().any(|named| engine.is_meant_by(*named))
}

fn list(engines: &[EngineKind]) -> String {
    engines.iter().map(|engine| engine.as_str()).collect::<Vec<_>>().join(", ")
}

const fn name(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Cpu => "CPU",
        EngineKind::Native => "native",
        EngineKind::Gpu => "GPU",
        EngineKind::Ort => "ONNX Runtime",
    }
}

/// The adapters that were found, each with why it is not used.
fn adapters(machine: &Machine) -> String {
    let each = machine.adapters.iter().take(4).map(|(adapter, rejected)| match rejected {
        Some(reason) => format!("{}: {reason}", adapter.name),
        None => adapter.name.clone(),
    });
    format!(" (found {})", each.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use agentd_types::{Adapter, AdapterKind, ByteCount, Datatype};

    use super::*;

    fn adapter(name: &str, kind: AdapterKind, rejected: Option<&str>) -> (Adapter, Option<String>) {
        let max_binding = ByteCount::mib(128);
        let (name, backend, driver) = (name.into(), "vulkan".into(), "x".into());
        let adapter =
            Adapter { name, backend, driver, kind, vendor_id: 0, device_id: 0, max_binding, f16: false };
        (adapter, rejected.map(Into::into))
    }

    fn machine() -> Machine {
        Machine {
            usable_cores: 6,
            threads: 6,
            memory: ByteCount::mib(512),
            built: vec![EngineKind::Cpu],
            try_engines: vec![EngineKind::Cpu, EngineKind::Gpu],
            adapters: Vec::new(),
        }
    }

    fn inputs(first: i64) -> Vec<TensorSpec> {
        vec![TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: vec![first, 64] }]
    }

    /// Each proposal as `setting`, or `setting: code: reason`.
    #[track_caller]
    fn check(machine: &Machine, any_of: &[EngineKind], policy: &ServePolicy, first: i64, want: &[&str]) {
        let requires = Requires { mem_mib: 64, any_of: any_of.to_vec() };
        let got: Vec<String> = candidates(machine, &requires, policy, &inputs(first))
            .iter()
            .map(|p| match &p.ruled_out {
                Some(out) => format!("{}: {}: {}", p.setting, out.code, out.reason),
                None => p.setting.to_string(),
            })
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn threads_double_up_to_the_limit_which_is_tried_too() {
        for (limit, want) in
            [(0, vec![1]), (1, vec![1]), (2, vec![1, 2]), (6, vec![1, 2, 4, 6]), (8, vec![1, 2, 4, 8])]
        {
            assert_eq!(thread_counts(limit), want, "{limit}");
        }
    }

    #[test]
    fn batches_come_only_for_throughput_and_a_free_first_dimension() {
        let mut machine = machine();
        machine.threads = 1;
        let throughput = ServePolicy { objective: Objective::Throughput, ..ServePolicy::default() };
        let cpu = [EngineKind::Cpu];
        check(&machine, &cpu, &ServePolicy::default(), -1, &["cpu 1 thr"]);
        check(&machine, &cpu, &throughput, 1, &["cpu 1 thr"]);
        let all = ["cpu 1 thr", "cpu 1 thr batch 4", "cpu 1 thr batch 16", "cpu 1 thr batch 64"];
        check(&machine, &cpu, &throughput, -1, &all);
    }

    #[test]
    fn cpu_allows_the_native_engine_and_native_means_itself() {
        let mut machine = machine();
        (machine.threads, machine.built) = (1, vec![EngineKind::Native, EngineKind::Cpu]);
        let (any, cpu) = (ServePolicy::default(), [EngineKind::Cpu]);
        check(&machine, &cpu, &any, 1, &["native 1 thr", "cpu 1 thr"]);
        let native = ServePolicy { engines: vec![EngineKind::Native], ..ServePolicy::default() };
        let refused = "cpu 1 thr: placement.policy: the policy allows native only";
        check(&machine, &cpu, &native, 1, &["native 1 thr", refused]);
        machine.threads = 3;
        let both = ["native 1 thr", "native 2 thr", "native 3 thr", "cpu 1 thr", "cpu 2 thr", "cpu 3 thr"];
        check(&machine, &cpu, &any, 1, &both);
    }

    #[test]
    fn what_cannot_serve_is_listed_with_the_reason() {
        let (mut machine, policy) = (machine(), ServePolicy::default());
        machine.threads = 1;
        check(&machine, &[], &policy, 1, &["cpu 1 thr"]);
        let missing = "gpu 1 thr: placement.no_adapter: no graphics adapter found";
        check(&machine, &[EngineKind::Cpu, EngineKind::Gpu], &policy, 1, &["cpu 1 thr", missing]);

        machine.adapters = vec![adapter("Iris Xe", AdapterKind::Integrated, None)];
        let not_built = "gpu 1 thr: engine.not_built: no GPU engine in this build (found Iris Xe)";
        check(&machine, &[], &policy, 1, &["cpu 1 thr", not_built]);

        machine.built.push(EngineKind::Gpu);
        check(&machine, &[], &policy, 1, &["cpu 1 thr", "gpu 1 thr"]);
        machine.adapters =
            vec![adapter("llvmpipe", AdapterKind::Software, Some("it computes on the processor"))];
        let software = "gpu 1 thr: placement.no_adapter: no usable graphics adapter (found llvmpipe: it computes on the processor)";
        check(&machine, &[], &policy, 1, &["cpu 1 thr", software]);

        let gpu_only = ServePolicy { engines: vec![EngineKind::Gpu], ..ServePolicy::default() };
        check(
            &machine,
            &[],
            &gpu_only,
            1,
            &["cpu 1 thr: placement.policy: the policy allows gpu only", software],
        );
        let ort = "ort 1 thr: engine.not_built: no ONNX Runtime engine in this build";
        let cpu = "cpu 1 thr: placement.requires: the bundle is for ort only";
        machine.adapters.clear();
        check(&machine, &[EngineKind::Ort], &policy, 1, &[cpu, ort]);
    }
}
