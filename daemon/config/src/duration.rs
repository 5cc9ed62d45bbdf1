//! Durations such as `30s`, `500ms`, `5min`, `2h`, `7d`.

use std::time::Duration;

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write for example \"500ms\", \"30s\", \"5min\", \"2h\" or \"7d\"")]
pub struct BadDuration(String);

/// Reads a whole number followed by `ms`, `s`, `min`, `h` or `d`.
///
/// # Errors
/// When the text has another form, or is longer than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration(text.chars().take(40).collect());
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms <= 100 * 365 * 86_400_000).ok_or_else(bad)?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5min", 300_000), ("2 h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "30", "s", "-1s", "1.5s", "99999999999d", "30 S", "é"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
