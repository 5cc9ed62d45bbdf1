//! How many workers serve a model.

use agentd_types::{ByteCount, Setting};
use agentd_wire::{Objective, ServePolicy};

use crate::Machine;

/// Most workers for one model, whatever the policy and the cores say.
const MOST: u16 = 64;
/// Most workers when latency counts: more would only add memory, since requests then seldom overlap.
const MOST_FOR_LATENCY: u16 = 2;

/// Workers for a setting that takes `peak` memory each; at least 1.
///
/// The policy's number when it gives one, else one for each `threads` cores; never more than fit into the memory.
pub fn instances(machine: &Machine, policy: &ServePolicy, setting: Setting, peak: ByteCount) -> u16 {
    let by_cores = machine.usable_cores / setting.threads.max(1);
    let wanted = policy.instances.unwrap_or(match policy.objective {
        Objective::Latency => by_cores.min(MOST_FOR_LATENCY),
        Objective::Throughput => by_cores,
    });
    let by_memory = machine.memory.0.checked_div(peak.0).map_or(MOST, |n| u16::try_from(n).unwrap_or(MOST));
    wanted.min(by_memory).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use agentd_types::EngineKind;

    use super::*;

    #[test]
    fn cores_memory_and_policy_decide_and_one_is_always_left() {
        let machine = |usable_cores, mib| Machine {
            usable_cores,
            threads: usable_cores,
            memory: ByteCount::mib(mib),
            built: Vec::new(),
            try_engines: Vec::new(),
            adapters: Vec::new(),
        };
        let latency = ServePolicy::default();
        let throughput = ServePolicy { objective: Objective::Throughput, ..ServePolicy::default() };
        let three = ServePolicy { instances: Some(3), ..ServePolicy::default() };
        let none = ServePolicy { instances: Some(0), ..ServePolicy::default() };
        for (cores, memory, policy, threads, peak, want) in [
            (8, 1_000, &latency, 1, 10, 2),
            (8, 1_000, &latency, 8, 10, 1),
            (8, 1_000, &throughput, 2, 10, 4),
            (8, 1_000, &throughput, 1, 300, 3),
            (8, 0, &throughput, 1, 300, 1),
            (1, 1_000, &three, 1, 10, 3),
            (1, 1_000, &none, 1, 10, 1),
            (2, 1_000, &throughput, 4, 0, 1),
            (u16::MAX, u64::MAX >> 20, &throughput, 1, 0, 64),
        ] {
            let setting = Setting { engine: EngineKind::Cpu, threads, batch: 1 };
            let got = instances(&machine(cores, memory), policy, setting, ByteCount::mib(peak));
            assert_eq!(got, want, "{cores} cores, {memory} MiB, {threads} threads, {peak} MiB each");
        }
    }
}
