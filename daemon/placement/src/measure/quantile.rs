//! Quantiles.

/// Returns the `q` quantile of latencies, by nearest rank.
///
/// `sorted_us`: microseconds, ascending, shape `[n]`. `q`: a fraction in `0.0..=1.0`.
/// Returns `None` when `n` is 0 or `q` is out of range.
///
/// Source: Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996), definition 1.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank lies between 0 and the number of samples, far below 2^53"
)]
pub(super) fn nearest_rank(sorted_us: &[u64], q: f64) -> Option<u64> {
    if !(0.0..=1.0).contains(&q) {
        return None;
    }
    let rank = (q * sorted_us.len() as f64).ceil() as usize;
    sorted_us.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_at_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        for (sorted, q, want) in [
            (&hundred[..], 0.5, Some(50)),
            (&hundred, 0.99, Some(99)),
            (&hundred, 1.0, Some(100)),
            (&hundred, 0.0, Some(1)),
            (&[7][..], 0.99, Some(7)),
            (&[1, 9], 0.5, Some(1)),
            (&[1, 9], 0.51, Some(9)),
            (&[], 0.5, None),
            (&hundred, 1.1, None),
            (&hundred, f64::NAN, None),
        ] {
            assert_eq!(nearest_rank(sorted, q), want, "{q} of {}", sorted.len());
        }
    }
}
