//! The rules of choosing, as rows and as properties.

use agentd_types::EngineKind;
use proptest::prelude::*;

use super::*;

fn machine(cores: u16, mib: u64) -> Machine {
    Machine {
        usable_cores: cores,
        threads: cores,
        memory: ByteCount::mib(mib),
        built: vec![EngineKind::Cpu],
        try_engines: vec![EngineKind::Cpu],
        adapters: Vec::new(),
    }
}

const fn cpu(threads: u16, batch: u16) -> Setting {
    Setting { engine: EngineKind::Cpu, threads, batch }
}

fn figures(p99_us: u64, per_second: f64, peak: ByteCount) -> Figures {
    Figures {
        p50_us: p99_us / 2,
        p90_us: p99_us,
        p99_us,
        max_us: p99_us,
        per_second,
        runs: 100,
        peak_memory: peak,
        load_us: 1,
        golden_off_ppm: 0,
        fallback_nodes: 0,
    }
}

fn ok(setting: Setting, p99_us: u64, mib: u64) -> (Setting, Evidence) {
    let per_second = 1e6 / f64::from(u32::try_from(p99_us).unwrap()) * f64::from(setting.batch);
    (setting, Evidence::Outcome(Outcome::Measured(figures(p99_us, per_second, ByteCount::mib(mib)))))
}

fn policy(latency_us: Option<u64>, objective: Objective) -> ServePolicy {
    ServePolicy { latency_us, objective, ..ServePolicy::default() }
}

const REQUIRES: Requires = Requires { mem_mib: 128, any_of: Vec::new() };

/// Each candidate as `setting: verdict: reason`.
#[track_caller]
fn check(known: &[(Setting, Evidence)], policy: &ServePolicy, want: &[&str]) {
    let choice = choose(known, &machine(4, 256), policy, &REQUIRES);
    let got: Vec<String> = choice
        .candidates
        .iter()
        .map(|c| match &c.verdict {
            Verdict::Chosen { reason } => format!("{}: chosen: {reason}", c.setting),
            Verdict::Lost { reason } => format!("{}: lost: {reason}", c.setting),
            Verdict::Disqualified { code, reason } => format!("{}: {code}: {reason}", c.setting),
        })
        .collect();
    assert_eq!(got, want);
}

#[test]
fn the_fastest_at_p99_serves_and_the_others_learn_by_how_much_they_lost() {
    let known = [ok(cpu(1, 1), 3_400, 10), ok(cpu(2, 1), 1_000, 11), ok(cpu(4, 1), 1_180, 12)];
    check(
        &known,
        &policy(None, Objective::Latency),
        &[
            "cpu 2 thr: chosen: fastest at p99",
            "cpu 4 thr: lost: 18 % slower at p99",
            "cpu 1 thr: lost: 3.4x slower at p99",
        ],
    );
}

#[test]
fn equals_go_to_fewer_threads_then_less_memory() {
    let known = [ok(cpu(4, 1), 1_000, 12), ok(cpu(2, 1), 1_040, 11), ok(cpu(1, 1), 1_060, 10)];
    check(
        &known,
        &policy(Some(20_000), Objective::Latency),
        &[
            "cpu 2 thr: chosen: as good as the best with fewer threads than cpu 4 thr within 20.0 ms",
            "cpu 4 thr: lost: no better, more threads",
            "cpu 1 thr: lost: a little slower",
        ],
    );
    let known = [ok(cpu(1, 1), 1_000, 12), ok(cpu(1, 4), 1_010, 11)];
    check(
        &known,
        &policy(None, Objective::Latency),
        &[
            "cpu 1 thr batch 4: chosen: as good as the best with less memory than cpu 1 thr",
            "cpu 1 thr: lost: no better, more memory",
        ],
    );
}

#[test]
fn a_goal_rules_over_throughput_and_a_goal_that_none_meets_is_told() {
    let known = [ok(cpu(1, 1), 1_000, 10), ok(cpu(1, 16), 9_000, 20)];
    let throughput = |goal| policy(goal, Objective::Throughput);
    check(
        &known,
        &throughput(None),
        &[
            "cpu 1 thr batch 16: chosen: most answers a second",
            "cpu 1 thr: lost: 1.8x slower for each answer",
        ],
    );
    check(
        &known,
        &throughput(Some(5_000)),
        &[
            "cpu 1 thr: chosen: the only one within 5.0 ms",
            "cpu 1 thr batch 16: lost: 9.0 ms at p99 misses the goal of 5.0 ms",
        ],
    );
    check(
        &known,
        &policy(Some(500), Objective::Latency),
        &[
            "cpu 1 thr: chosen: fastest at p99, though 1.0 ms misses the goal of 500 us that none meets",
            "cpu 1 thr batch 16: lost: 9.0x slower at p99",
        ],
    );
}

#[test]
fn what_may_not_serve_is_disqualified_with_the_facts() {
    let wrong = |off_ppm| Outcome::WrongNumbers { golden: 1, output: "y".into(), off_ppm, tol_ppm: 100 };
    let failed = Outcome::Failed { code: Code::new("engine.load"), message: "no such operator".into() };
    let out = RuledOut { code: Code::new("engine.not_built"), reason: "no GPU engine in this build".into() };
    let known = [
        ok(cpu(1, 1), 1, 129),
        (cpu(1, 4), Evidence::Outcome(wrong(Some(350)))),
        (cpu(2, 1), Evidence::Outcome(wrong(None))),
        (cpu(2, 4), Evidence::Outcome(failed)),
        (cpu(4, 1), Evidence::NotMeasured),
        (Setting { engine: EngineKind::Gpu, threads: 1, batch: 1 }, Evidence::RuledOut(out)),
    ];
    let disqualified = [
        "cpu 1 thr: placement.memory: needs 129 MiB, 128 MiB allowed",
        "cpu 1 thr batch 4: placement.wrong_numbers: wrong numbers: golden 1, output `y` is 350 ppm off, 100 allowed",
        "cpu 2 thr: placement.wrong_numbers: wrong numbers: golden 1, output `y` is not comparable (NaN, shape or type)",
        "cpu 2 thr batch 4: engine.load: no such operator",
        "cpu 4 thr: placement.not_measured: not measured: the time for measuring was over",
        "gpu 1 thr: engine.not_built: no GPU engine in this build",
    ];
    check(&known, &policy(None, Objective::Latency), &disqualified);
    let mut with = vec!["cpu 8 thr: chosen: the only one that may serve"];
    with.extend(disqualified);
    let mut known = known.to_vec();
    known.push(ok(cpu(8, 1), 9_000, 100));
    check(&known, &policy(None, Objective::Latency), &with);
}

#[test]
fn more_memory_than_the_machine_has_left_disqualifies_whatever_is_allowed() {
    let generous = ServePolicy { memory_mib: Some(4_096), ..ServePolicy::default() };
    check(
        &[ok(cpu(1, 1), 1, 300)],
        &generous,
        &["cpu 1 thr: placement.memory: needs 300 MiB, 256 MiB free on this machine"],
    );
}

#[test]
fn nothing_known_is_nothing_chosen() {
    let choice = choose(&[], &machine(4, 256), &ServePolicy::default(), &REQUIRES);
    assert_eq!(choice, Choice { candidates: Vec::new(), instances: 0 });
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let latency = prop_oneof![Just(1_000_u64), 950_u64..1_100, 1_u64..100_000];
    let measured = (latency, prop_oneof![Just(0.0), Just(f64::NAN), 0.1_f64..1e6], 1_u64..400).prop_map(
        |(p99, per_second, mib)| {
            Evidence::Outcome(Outcome::Measured(figures(p99, per_second, ByteCount::mib(mib))))
        },
    );
    let wrong = Outcome::WrongNumbers { golden: 0, output: "y".into(), off_ppm: None, tol_ppm: 1 };
    prop_oneof![8 => measured, 1 => Just(Evidence::NotMeasured), 1 => Just(Evidence::Outcome(wrong))]
}

/// Distinct settings with evidence, in any order.
fn known() -> impl Strategy<Value = Vec<(Setting, Evidence)>> {
    let setting = (0_u32..4, 0_u32..4).prop_map(|(threads, batch)| cpu(1 << threads, 1 << (2 * batch)));
    proptest::collection::btree_map(setting, evidence(), 0..10)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn any_policy() -> impl Strategy<Value = ServePolicy> {
    let objective = prop_oneof![Just(Objective::Latency), Just(Objective::Throughput)];
    (proptest::option::of(1_u64..100_000), objective, proptest::option::of(1_u16..5)).prop_map(
        |(latency_us, objective, instances)| ServePolicy {
            latency_us,
            objective,
            instances,
            ..ServePolicy::default()
        },
    )
}

fn measured_of(known: &[(Setting, Evidence)], setting: Setting) -> Option<&Figures> {
    known.iter().find(|(other, _)| *other == setting).and_then(|(_, evidence)| match evidence {
        Evidence::Outcome(Outcome::Measured(figures)) => Some(figures),
        _ => None,
    })
}

/// Whether `a` is nowhere worse than `b` and somewhere better.
fn dominates(
    a: (Setting, &Figures),
    b: (Setting, &Figures),
    machine: &Machine,
    policy: &ServePolicy,
) -> bool {
    let all = |(setting, figures): (Setting, &Figures)| {
        (cost(setting, figures, machine, policy), figures.p99_us, setting.threads, figures.peak_memory)
    };
    let (x, y) = (all(a), all(b));
    x.0 <= y.0 && x.1 <= y.1 && x.2 <= y.2 && x.3 <= y.3 && x != y
}

proptest! {
    #[test]
    fn every_candidate_comes_once_with_a_verdict_and_none_is_chosen_only_if_all_are_disqualified(
        known in known(), policy in any_policy()
    ) {
        let choice = choose(&known, &machine(8, 256), &policy, &REQUIRES);
        let mut got: Vec<Setting> = choice.candidates.iter().map(|candidate| candidate.setting).collect();
        let mut want: Vec<Setting> = known.iter().map(|(setting, _)| *setting).collect();
        got.sort_unstable();
        want.sort_unstable();
        prop_assert_eq!(got, want);
        let count = |test: fn(&Verdict) -> bool| choice.candidates.iter().filter(|c| test(&c.verdict)).count();
        let out = count(|verdict| matches!(verdict, Verdict::Disqualified { .. }));
        let chosen = count(|verdict| matches!(verdict, Verdict::Chosen { .. }));
        prop_assert_eq!(chosen, usize::from(out < known.len()));
        prop_assert_eq!(choice.instances > 0, chosen == 1);
    }

    #[test]
    fn the_order_of_the_evidence_does_not_matter(
        (known, shuffled) in known().prop_flat_map(|known| (Just(known.clone()), Just(known).prop_shuffle())),
        policy in any_policy()
    ) {
        let machine = machine(8, 256);
        // NaN is not equal to itself, so the texts are compared.
        let text = |known: &[_]| format!("{:?}", choose(known, &machine, &policy, &REQUIRES));
        prop_assert_eq!(text(&known), text(&shuffled));
    }

    #[test]
    fn the_chosen_one_is_never_dominated(known in known(), policy in any_policy()) {
        let machine = machine(8, 256);
        let choice = choose(&known, &machine, &policy, &REQUIRES);
        let Some(chosen) = choice.setting() else { return Ok(()) };
        let chosen = (chosen, measured_of(&known, chosen).unwrap());
        for candidate in &choice.candidates {
            if let (Verdict::Lost { .. }, Some(figures)) =
                (&candidate.verdict, measured_of(&known, candidate.setting))
            {
                prop_assert!(!dominates((candidate.setting, figures), chosen, &machine, &policy));
            }
        }
    }

    #[test]
    fn adding_a_worse_candidate_never_changes_the_choice(
        known in known(), policy in any_policy(), slower in 0_u64..1_000, larger in 0_u64..100
    ) {
        let machine = machine(8, 256);
        let Some(chosen) = choose(&known, &machine, &policy, &REQUIRES).setting() else { return Ok(()) };
        let mut worse = *measured_of(&known, chosen).unwrap();
        worse.p99_us += slower;
        worse.per_second /= 2.0;
        worse.peak_memory = ByteCount(worse.peak_memory.0 + (larger << 20));
        let mut more = known.clone();
        more.push((cpu(chosen.threads + 100, chosen.batch), Evidence::Outcome(Outcome::Measured(worse))));
        prop_assert_eq!(choose(&more, &machine, &policy, &REQUIRES).setting(), Some(chosen));
    }
}
