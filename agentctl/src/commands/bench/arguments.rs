//! What `bench` is asked.

use std::{path::PathBuf, str::FromStr, time::Duration};

use agentd_types::{ByteCount, EngineKind};
use agentd_wire::Objective;

const EXAMPLES: &str = "Examples:\n  \
    agentctl bench model.onnx\n  \
    agentctl bench detector.onnx --shape images=1,3,640,640 --threads 1,2\n  \
    agentctl bench model.onnx --engine cpu,native --threads 1\n  \
    agentctl bench model.onnx --plan --threads 2\n  \
    agentctl bench text.onnx --input ids=ids.npy --time 5s --json\n\n\
    Without --input, inputs are pseudo-random: floats between 0 and 1, whole numbers 0 or 1.";

/// The `bench` command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The ONNX file.
    #[arg(value_name = "FILE.onnx")]
    pub(crate) file: PathBuf,
    /// Engines to try: native is our own kernels, cpu is tract; otherwise both.
    #[arg(long, value_name = "ENGINE,..", value_delimiter = ',')]
    pub(crate) engine: Vec<EngineKind>,
    /// Show what the native engine does for one request, step by step, beside what this machine can do at best; on one
    /// thread unless --threads says otherwise.
    #[arg(long, conflicts_with_all = ["engine", "throughput"])]
    pub(crate) plan: bool,
    /// Numbers of threads to try; otherwise 1, 2, 4 up to what this machine has.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Vec<u16>,
    /// Numbers of samples in one inference to try; the first dimension of every input must be free.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) batch: Vec<u16>,
    /// Take an input from a NumPy file.
    #[arg(long, value_name = "NAME=FILE.npy")]
    pub(crate) input: Vec<Named>,
    /// Give the free dimensions of an input sizes.
    #[arg(long, value_name = "NAME=1,3,224,224")]
    pub(crate) shape: Vec<Named>,
    /// How long to measure each setting.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) time: Duration,
    /// The longest time that loading may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) load_timeout: Duration,
    /// The longest time that one answer may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) answer_timeout: Duration,
    /// Most memory for a worker; otherwise what models may take on this machine.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteCount>,
    /// Rank by answers a second and not by latency.
    #[arg(long)]
    pub(crate) throughput: bool,
    /// The seed of pseudo-random inputs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Args {
    /// What is ranked by.
    pub(super) const fn objective(&self) -> Objective {
        if self.throughput { Objective::Throughput } else { Objective::Latency }
    }
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The value has no `=`, a name may have one.
        match text.rsplit_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("write NAME=VALUE".to_owned()),
        }
    }
}

/// `500ms`, `2s`, `1m`: between one millisecond and ten minutes.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time between 1ms and 10m: write for example 500ms, 2s or 1m");
    let (number, unit_ms) = [("ms", 1_u64), ("s", 1_000), ("m", 60_000)]
        .iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, *ms)))
        .ok_or_else(bad)?;
    let ms = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).ok_or_else(bad)?;
    if (1..=600_000).contains(&ms) { Ok(Duration::from_millis(ms)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds() {
        for (text, ms) in [("500ms", 500), ("2s", 2_000), ("1 m", 60_000), ("1ms", 1)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "2", "0s", "11m", "-1s", "1h", "99999999999999999999s", "s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_may_hold_an_equals_sign() {
        let named = |name: &str, value: &str| Ok(Named { name: name.into(), value: value.into() });
        assert_eq!("x=1,2".parse::<Named>(), named("x", "1,2"));
        assert_eq!("a=b=c.npy".parse::<Named>(), named("a=b", "c.npy"));
        assert!(["", "x", "=1", "x="].iter().all(|bad| bad.parse::<Named>().is_err()));
    }
}
