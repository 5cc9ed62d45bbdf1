//! A measured plan as tables: one row a step, then one row a kind of step.

use std::{collections::BTreeMap, time::Duration};

use agentd_engine::{Profile, StepProfile};
use agentd_types::human_duration;

use crate::ui::Align;

/// Characters of a node's name that are shown: the last ones, since names begin with what all have in common.
const NAME: usize = 40;

const STEPS: [(&str, Align); 10] = [
    ("", Align::Right),
    ("STEP", Align::Left),
    ("NODE", Align::Left),
    ("OPERATOR", Align::Left),
    ("SHAPE", Align::Left),
    ("TIME (US)", Align::Right),
    ("SHARE", Align::Right),
    ("GFMA/S", Align::Right),
    ("OF PEAK", Align::Right),
    ("GB/S", Align::Right),
];

const KINDS: [(&str, Align); 7] = [
    ("STEP", Align::Left),
    ("STEPS", Align::Right),
    ("TIME (US)", Align::Right),
    ("SHARE", Align::Right),
    ("GFMA/S", Align::Right),
    ("OF PEAK", Align::Right),
    ("GB/S", Align::Right),
];

type Table = (&'static [(&'static str, Align)], Vec<Vec<String>>);

/// What several steps took and did together.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    steps: usize,
    time_ns: u64,
    multiply_adds: u64,
    touched: u64,
}

impl Sum {
    fn plus(self, step: &StepProfile) -> Self {
        Self {
            steps: self.steps + 1,
            time_ns: self.time_ns.saturating_add(step.time_ns),
            multiply_adds: self.multiply_adds.saturating_add(step.multiply_adds),
            touched: self.touched.saturating_add(step.touched.0),
        }
    }

    /// Time, its share of a run, multiply-adds a second, their share of the peak, bytes a second.
    fn figures(self, profile: &Profile) -> [String; 5] {
        let rate = a_second(self.multiply_adds, self.time_ns);
        let (products, of_peak) = if self.multiply_adds == 0 {
            ("-".to_owned(), "-".to_owned())
        } else {
            (giga(rate), percent(rate, per(profile.peak_multiply_adds)))
        };
        let bytes =
            if self.touched == 0 { "-".to_owned() } else { giga(a_second(self.touched, self.time_ns)) };
        let share = percent(per(self.time_ns), per(profile.run_ns));
        [format!("{:.1}", per(self.time_ns) / 1e3), share, products, of_peak, bytes]
    }
}

/// What was measured, and on what.
pub(super) fn heading(file: &str, profile: &Profile) -> String {
    let threads = match profile.threads {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    };
    let read = match profile.peak_read.0 {
        0 => String::new(),
        bytes => format!(", {} GB/s read from memory", giga(per(bytes))),
    };
    format!(
        "{file}: native, {} on {threads}; {} steps in {}, {}\npeak: {} GFMA/s in registers{read}",
        profile.instructions,
        profile.steps.len(),
        human_duration(Duration::from_nanos(profile.run_ns)),
        match profile.runs {
            1 => "1 run".to_owned(),
            runs => format!("the mean of {runs} runs"),
        },
        giga(per(profile.peak_multiply_adds)),
    )
}

/// A row for each step, in the order in which they run.
pub(super) fn steps(profile: &Profile) -> Table {
    let row = |(number, step): (usize, &StepProfile)| {
        let shape: Vec<String> = step.shape.iter().map(u64::to_string).collect();
        let shape = if shape.is_empty() { "-".to_owned() } else { shape.join("x") };
        let figures = Sum::default().plus(step).figures(profile);
        let names =
            [(number + 1).to_string(), step.step.clone(), tail(&step.node), step.operator.clone(), shape];
        names.into_iter().chain(figures).collect()
    };
    (&STEPS, profile.steps.iter().enumerate().map(row).collect())
}

/// A row for each kind of step, the longest time first, then what no step accounts for.
pub(super) fn kinds(profile: &Profile) -> Table {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for step in &profile.steps {
        let sum = sums.entry(&step.step).or_default();
        *sum = sum.plus(step);
    }
    let spent = sums.values().fold(0_u64, |spent, sum| spent.saturating_add(sum.time_ns));
    let rest = Sum { time_ns: profile.run_ns.saturating_sub(spent), ..Sum::default() };
    let mut sums: Vec<(&str, Sum)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.time_ns));
    sums.push(("between steps", rest));
    let row = |(name, sum): &(&str, Sum)| {
        let steps = if sum.steps == 0 { "-".to_owned() } else { sum.steps.to_string() };
        [(*name).to_owned(), steps].into_iter().chain(sum.figures(profile)).collect()
    };
    (&KINDS, sums.iter().map(row).collect())
}

/// What a person should know beside the tables.
pub(super) fn remarks(profile: &Profile) -> Vec<String> {
    let mut remarks = vec![format!("memory: arena {}, constants {}", profile.arena, profile.constants)];
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for step in profile.steps.iter().filter(|step| step.interpreted) {
        *nodes.entry(&step.operator).or_default() += 1;
    }
    if !nodes.is_empty() {
        let named: Vec<_> = nodes.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
        remarks.push(format!("left to the interpreter, which is slow: {}", named.join(", ")));
    }
    if profile.steps.iter().any(|step| step.step == "winograd") {
        remarks.push(
            "winograd counts the multiply-adds of the direct method and does a quarter of them, so it may pass the peak"
                .to_owned(),
        );
    }
    remarks
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
const fn per(number: u64) -> f64 {
    number as f64
}

/// `amount` in so many nanoseconds, a second.
fn a_second(amount: u64, time_ns: u64) -> f64 {
    per(amount) * 1e9 / per(time_ns.max(1))
}

fn giga(number: f64) -> String {
    format!("{:.1}", number / 1e9)
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 100.0) } else { "-".to_owned() }
}

fn tail(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length - NAME + 1)).collect()
}

#[cfg(test)]
mod tests {
    use agentd_types::ByteCount;

    use super::*;
    use crate::ui::render_table;

    fn step(step: &str, operator: &str, time_ns: u64, multiply_adds: u64) -> StepProfile {
        StepProfile {
            step: step.into(),
            node: format!("/model/backbone/stage1/a-name-of-some-length/{operator}"),
            operator: operator.into(),
            shape: vec![1, 16, 112, 112],
            time_ns,
            multiply_adds,
            touched: ByteCount(4_000_000),
            interpreted: step == "reference",
        }
    }

    fn profile() -> Profile {
        Profile {
            instructions: "avx2".into(),
            threads: 2,
            runs: 160,
            run_ns: 1_000_000,
            peak_multiply_adds: 50_000_000_000,
            peak_read: ByteCount(20_000_000_000),
            arena: ByteCount::mib(4),
            constants: ByteCount::mib(13),
            steps: vec![
                step("reorder", "Conv", 50_000, 0),
                step("convolve", "Conv", 400_000, 18_000_000),
                step("winograd", "Conv", 200_000, 20_000_000),
                step("convolve", "Gemm", 100_000, 1_000_000),
                step("reference", "NonMaxSuppression", 150_000, 0),
                StepProfile {
                    node: "a".into(),
                    shape: vec![],
                    touched: ByteCount(0),
                    ..step("copy", "Reshape", 0, 0)
                },
            ],
        }
    }

    #[test]
    fn a_plan_reads_as_tables() {
        let profile = profile();
        let (headings, rows) = steps(&profile);
        let (sums, kinds) = kinds(&profile);
        insta::assert_snapshot!(format!(
            "{}\n{}\n{}\n{}",
            heading("model.onnx", &profile),
            render_table(headings, rows),
            render_table(sums, kinds),
            remarks(&profile).join("\n")
        ));
    }

    #[test]
    fn a_profile_of_nothing_divides_by_nothing() {
        let profile = Profile { runs: 1, steps: vec![StepProfile::default()], ..Profile::default() };
        let (_, rows) = steps(&profile);
        assert_eq!(rows[0][4..], ["-", "0.0", "-", "-", "-", "-"]);
    }
}
