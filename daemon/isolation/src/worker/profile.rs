//! A profile as a worker wrote it, held against what can be.

use std::time::Duration;

use agentd_engine::Profile;

use super::clean;

/// Steps that are believed.
const MAX_STEPS: usize = 65_536;
/// Dimensions of a shape that are believed.
const MAX_RANK: usize = 64;

/// Reads a profile that took no longer than `elapsed`, with every text printable and of bounded length.
///
/// Returns `None` when it is none, or when its times cannot be.
pub(super) fn read(json: &[u8], elapsed: Duration) -> Option<Profile> {
    let mut profile: Profile = serde_json::from_slice(json).ok()?;
    let all = u128::from(profile.run_ns) * u128::from(profile.runs);
    let steps = profile.steps.iter().try_fold(0_u64, |sum, step| sum.checked_add(step.time_ns))?;
    let bounded = profile.steps.len() <= MAX_STEPS
        && profile.steps.iter().all(|step| step.shape.len() <= MAX_RANK && step.touched.0 < u64::MAX);
    if profile.runs == 0 || all > elapsed.as_nanos() || steps > profile.run_ns || !bounded {
        return None;
    }
    profile.instructions = clean(profile.instructions);
    for step in &mut profile.steps {
        for text in [&mut step.step, &mut step.node, &mut step.operator] {
            *text = clean(std::mem::take(text));
        }
    }
    Some(profile)
}

#[cfg(test)]
mod tests {
    use agentd_engine::StepProfile;

    use super::*;

    /// A profile of two runs of a microsecond each, changed.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Profile), is_good: bool) {
        let step = StepProfile { step: "convolve".into(), time_ns: 900, ..StepProfile::default() };
        let mut profile = Profile { runs: 2, run_ns: 1_000, steps: vec![step], ..Profile::default() };
        change(&mut profile);
        let json = serde_json::to_vec(&profile).unwrap();
        assert_eq!(read(&json, Duration::from_micros(2)).is_some(), is_good, "{profile:?}");
    }

    #[test]
    fn times_that_cannot_be_are_not_believed() {
        check(|_| {}, true);
        check(|profile| profile.runs = 0, false);
        check(|profile| profile.runs = 3, false);
        check(|profile| profile.run_ns = u64::MAX, false);
        check(|profile| profile.steps[0].time_ns = 1_001, false);
        check(|profile| profile.steps = vec![profile.steps[0].clone(); 2], false);
        check(|profile| profile.steps[0].shape = vec![1; 65], false);
        assert_eq!(read(b"{}", Duration::from_secs(1)), None);
        assert_eq!(read(&[], Duration::from_secs(1)), None);
    }

    #[test]
    fn texts_reach_a_terminal_without_its_commands() {
        let step = StepProfile { node: "\u{1b}[2J".into(), ..StepProfile::default() };
        let profile = Profile { runs: 1, steps: vec![step], ..Profile::default() };
        let json = serde_json::to_vec(&profile).unwrap();
        assert_eq!(read(&json, Duration::from_secs(1)).unwrap().steps[0].node, " [2J");
    }
}
