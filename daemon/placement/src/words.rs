//! Figures in words, for the reasons in receipts.

use std::time::Duration;

use agentd_types::{ByteCount, human_duration};

/// A latency for people.
pub(crate) fn micros(us: u64) -> String {
    human_duration(Duration::from_micros(us))
}

/// Whole mebibytes, rounded up, so that what was needed is never shown as what was allowed.
pub(crate) fn mebibytes(bytes: ByteCount) -> String {
    format!("{} MiB", bytes.0.div_ceil(1 << 20))
}

/// How much worse `cost` is than `best`: `3.4x slower`, `18 % slower`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn slower(cost: u64, best: u64) -> String {
    let ratio = cost as f64 / best.max(1) as f64;
    if ratio >= 1.5 {
        format!("{ratio:.1}x slower")
    } else {
        format!("{:.0} % slower", (ratio - 1.0) * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_like_speech() {
        assert_eq!(slower(340, 100), "3.4x slower");
        assert_eq!(slower(118, 100), "18 % slower");
        assert_eq!(slower(5, 0), "5.0x slower");
        assert_eq!(mebibytes(ByteCount((128 << 20) + 1)), "129 MiB");
    }
}
