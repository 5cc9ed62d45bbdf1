//! Chooses the setting that serves, and says of every other why not.
//!
//! In: settings with what is known of each, the machine, the policy, what the bundle requires. Out: a [`Choice`].
//! Pure: the same evidence in any order gives the same choice, whatever the time.
//!
//! Rules, in order:
//! 1. Wrong numbers, failures, too much memory and settings that were not measured are disqualified.
//! 2. When some meet the latency goal, the others lose. When none does, the best is chosen all the same and the
//!    receipt says so: a late answer is worth more to an application than none.
//! 3. The lowest cost wins: the 99th percentile of latency, or time for each sample when throughput is wanted.
//! 4. Costs within 5 % of the lowest are equal, since the next measurement would differ by as much; then fewer threads
//!    win, then less memory.

use agentd_types::{ByteCount, Code, Digest, ModelName, Setting, UnixTime};
use agentd_wire::{Candidate, Figures, Objective, Outcome, Receipt, Requires, ServePolicy, Verdict};

use crate::{Machine, RuledOut, instances, words};

/// Costs up to this share of the lowest above it, in thousandths, count as equal to it.
const EQUAL_PERMILLE: u64 = 50;

/// What is known of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// It was measured, or measuring it failed.
    Outcome(Outcome),
    /// It could not serve whatever it measured.
    RuledOut(RuledOut),
    /// The time for measuring was over before its turn came.
    NotMeasured,
}

/// Which setting serves with how many workers, and every candidate's verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Every candidate once: the chosen one, the losers by how near they came, the disqualified by setting.
    pub candidates: Vec<Candidate>,
    /// Workers that serve; 0 when none may.
    pub instances: u16,
}

/// Of what and when a choice was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are those of the receipt")]
pub struct Subject {
    pub model: ModelName,
    pub version: u64,
    pub bundle: Digest,
    pub hardware: Digest,
    pub at: UnixTime,
}

impl Choice {
    /// The setting that serves, if any may.
    pub fn setting(&self) -> Option<Setting> {
        self.candidates
            .iter()
            .find(|candidate| matches!(candidate.verdict, Verdict::Chosen { .. }))
            .map(|candidate| candidate.setting)
    }

    /// The receipt for the journal.
    pub fn into_receipt(self, subject: Subject, policy: ServePolicy) -> Receipt {
        let Subject { model, version, bundle, hardware, at } = subject;
        Receipt { model, version, bundle, at, hardware, policy, candidates: self.candidates }
    }
}

/// A candidate that may serve. The order of the fields is the order among equals in cost.
#[derive(Clone, Copy, Debug)]
struct Able<'a> {
    setting: Setting,
    figures: &'a Figures,
    /// Microseconds at the 99th percentile, or nanoseconds for each sample of all workers together.
    cost: u64,
    in_goal: bool,
    at: usize,
}

/// Chooses among `known`, each setting of which comes once; see the module for the rules.
///
/// Every element of `known` is in the result once. Nothing is chosen only when all are disqualified.
pub fn choose(
    known: &[(Setting, Evidence)],
    machine: &Machine,
    policy: &ServePolicy,
    requires: &Requires,
) -> Choice {
    let mut able = Vec::new();
    let mut disqualified = Vec::new();
    for (at, (setting, evidence)) in known.iter().enumerate() {
        match qualify(evidence, machine, policy, requires) {
            Ok(figures) => {
                let cost = cost(*setting, figures, machine, policy);
                let in_goal = policy.latency_us.is_none_or(|goal| figures.p99_us <= goal);
                able.push(Able { setting: *setting, figures, cost, in_goal, at });
            }
            Err((code, reason)) => {
                disqualified
                    .push((*setting, candidate(*setting, evidence, Verdict::Disqualified { code, reason })));
            }
        }
    }
    disqualified.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| format!("{x:?}").cmp(&format!("{y:?}"))));

    let mut candidates = Vec::with_capacity(known.len());
    let winner = winner(&able);
    if let Some(winner) = &winner {
        able.retain(|other| other.at != winner.at);
        able.sort_by_key(|other| (!other.in_goal, other.cost, order(other)));
        let reason = why_chosen(winner, &able, policy);
        candidates.push(measured(winner, Verdict::Chosen { reason }));
        candidates.extend(
            able.iter()
                .map(|other| measured(other, Verdict::Lost { reason: why_lost(other, winner, policy) })),
        );
    }
    candidates.extend(disqualified.into_iter().map(|(_, candidate)| candidate));
    let instances = winner.map_or(0, |w| instances(machine, policy, w.setting, w.figures.peak_memory));
    Choice { candidates, instances }
}

fn candidate(setting: Setting, evidence: &Evidence, verdict: Verdict) -> Candidate {
    let outcome = match evidence {
        Evidence::Outcome(outcome) => Some(outcome.clone()),
        Evidence::RuledOut(_) | Evidence::NotMeasured => None,
    };
    Candidate { setting, outcome, verdict }
}

fn measured(able: &Able<'_>, verdict: Verdict) -> Candidate {
    Candidate { setting: able.setting, outcome: Some(Outcome::Measured(*able.figures)), verdict }
}

/// The figures of a setting that may serve, or why it may not.
fn qualify<'a>(
    evidence: &'a Evidence,
    machine: &Machine,
    policy: &ServePolicy,
    requires: &Requires,
) -> Result<&'a Figures, (Code, String)> {
    let figures = match evidence {
        Evidence::Outcome(Outcome::Measured(figures)) => figures,
        Evidence::Outcome(Outcome::WrongNumbers { golden, output, off_ppm, tol_ppm }) => {
            return Err((Code::new("placement.wrong_numbers"), wrong(*golden, output, *off_ppm, *tol_ppm)));
        }
        Evidence::Outcome(Outcome::Failed { code, message }) => return Err((code.clone(), message.clone())),
        Evidence::RuledOut(out) => return Err((out.code.clone(), out.reason.clone())),
        Evidence::NotMeasured => {
            let reason = "not measured: the time for measuring was over".to_owned();
            return Err((Code::new("placement.not_measured"), reason));
        }
    };
    let needs = words::mebibytes(figures.peak_memory);
    let allowed = policy.memory(requires.mem_mib);
    if allowed > ByteCount(0) && figures.peak_memory > allowed {
        let reason = format!("needs {needs}, {} allowed", words::mebibytes(allowed));
        return Err((Code::new("placement.memory"), reason));
    }
    if figures.peak_memory > machine.memory {
        let reason = format!("needs {needs}, {} MiB free on this machine", machine.memory.0 >> 20);
        return Err((Code::new("placement.memory"), reason));
    }
    Ok(figures)
}

fn wrong(golden: usize, output: &str, off_ppm: Option<u64>, tol_ppm: u64) -> String {
    match off_ppm {
        Some(off) => {
            format!("wrong numbers: golden {golden}, output `{output}` is {off} ppm off, {tol_ppm} allowed")
        }
        None => format!(
            "wrong numbers: golden {golden}, output `{output}` is not comparable (NaN, shape or type)"
        ),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of u64 by the conversion; figures that are no numbers cost the most"
)]
fn cost(setting: Setting, figures: &Figures, machine: &Machine, policy: &ServePolicy) -> u64 {
    match policy.objective {
        Objective::Latency => figures.p99_us,
        Objective::Throughput => {
            let workers = instances(machine, policy, setting, figures.peak_memory);
            let per_second = figures.per_second * f64::from(workers);
            if per_second > 0.0 { (1e9 / per_second) as u64 } else { u64::MAX }
        }
    }
}

/// Among equals in cost the least of this wins; what comes after memory only makes the order total.
fn order(able: &Able<'_>) -> (u16, ByteCount, u64, u64, u64, Setting) {
    let figures = able.figures;
    (able.setting.threads, figures.peak_memory, able.cost, figures.p99_us, figures.p50_us, able.setting)
}

const fn equal(cost: u64, best: u64) -> bool {
    cost <= best.saturating_add(best / 1_000 * EQUAL_PERMILLE + best % 1_000 * EQUAL_PERMILLE / 1_000)
}

fn winner<'a>(able: &[Able<'a>]) -> Option<Able<'a>> {
    let goal = able.iter().any(|one| one.in_goal);
    let runners = || able.iter().filter(|one| one.in_goal || !goal);
    let best = runners().map(|one| one.cost).min()?;
    runners().filter(|one| equal(one.cost, best)).min_by_key(|one| order(one)).copied()
}

fn aim(policy: &ServePolicy) -> &'static str {
    match policy.objective {
        Objective::Latency => "fastest at p99",
        Objective::Throughput => "most answers a second",
    }
}

fn why_chosen(winner: &Able<'_>, others: &[Able<'_>], policy: &ServePolicy) -> String {
    let goal = policy.latency_us.map(words::micros);
    if let (false, Some(goal)) = (winner.in_goal, &goal) {
        let p99 = words::micros(winner.figures.p99_us);
        return format!("{}, though {p99} misses the goal of {goal} that none meets", aim(policy));
    }
    let rivals: Vec<_> = others.iter().filter(|other| other.in_goal).collect();
    let beaten = rivals.iter().find(|other| other.cost < winner.cost);
    let mut reason = match (rivals.is_empty(), beaten) {
        (true, _) if others.is_empty() => "the only one that may serve".to_owned(),
        (true, _) => "the only one".to_owned(),
        (false, Some(other)) if other.setting.threads > winner.setting.threads => {
            format!("as good as the best with fewer threads than {}", other.setting)
        }
        (false, Some(other)) => format!("as good as the best with less memory than {}", other.setting),
        (false, None) => aim(policy).to_owned(),
    };
    if let Some(goal) = goal {
        reason.push_str(&format!(" within {goal}"));
    }
    reason
}

fn why_lost(loser: &Able<'_>, winner: &Able<'_>, policy: &ServePolicy) -> String {
    if winner.in_goal && !loser.in_goal {
        let goal = policy.latency_us.map(words::micros).unwrap_or_default();
        return format!("{} at p99 misses the goal of {goal}", words::micros(loser.figures.p99_us));
    }
    if loser.cost > winner.cost && !equal(loser.cost, winner.cost) {
        let slower = words::slower(loser.cost, winner.cost);
        return match policy.objective {
            Objective::Latency => format!("{slower} at p99"),
            Objective::Throughput => format!("{slower} for each answer"),
        };
    }
    let than = if loser.setting.threads > winner.setting.threads {
        "more threads"
    } else if loser.figures.peak_memory > winner.figures.peak_memory {
        "more memory"
    } else if loser.cost > winner.cost {
        "a little slower"
    } else {
        return "no better".to_owned();
    };
    if than == "a little slower" { "a little slower".to_owned() } else { format!("no better, {than}") }
}

#[cfg(test)]
mod tests;
