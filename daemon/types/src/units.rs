//! Bytes and times, as machines keep them and as people read them.

use std::{fmt, iter::Sum, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Seconds from `earlier` to this time, 0 when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// The time `seconds` later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// Shown as `2026-11-25 08:00:00Z`.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400 + 719_468, self.0 % 86_400);
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The text is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a time: write for example \"2026-11-25\" or \"2026-11-25 08:00:00Z\"")]
pub struct BadTime {
    text: String,
}

/// Reads what [`UnixTime`] shows, or a date alone, which stands for its first second.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
impl FromStr for UnixTime {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let bad = || BadTime { text: text.chars().take(40).collect() };
        let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00Z"));
        let time = time.strip_suffix('Z').ok_or_else(bad)?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or_else(bad)?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2]).ok_or_else(bad)?;
        let shifted_year = year.checked_sub(u64::from(month <= 2)).ok_or_else(bad)?;
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
        let leap_days = shifted_year / 4 + shifted_year / 400;
        let days = shifted_year * 365 + leap_days + day_of_year;
        let days = days.checked_sub(shifted_year / 100 + 719_468).ok_or_else(bad)?;
        let time = Self(days * 86_400 + hour * 3_600 + minute * 60 + second);
        // A day or hour that does not exist would show as another one.
        let shown = time.to_string();
        if shown == text || shown.strip_suffix(" 00:00:00Z") == Some(text) { Ok(time) } else { Err(bad()) }
    }
}

fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let parts: &[&str; 3] = parts.as_slice().try_into().ok()?;
    let mut values = [0; 3];
    for ((value, part), digits) in values.iter_mut().zip(parts).zip(digits) {
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *value = part.parse().ok()?;
    }
    Some(values)
}

/// A number of bytes. Text: `64MiB`, `1.5GiB`, `512` (bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteCount {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl fmt::Display for ByteCount {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) => f.pad(&format!("{:.1} {unit}", self.0 as f64 / *size as f64)),
            None => f.pad(&format!("{} B", self.0)),
        }
    }
}

/// The text is not a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a size: write for example \"64MiB\", \"1.5GiB\" or a number of bytes")]
pub struct BadUnit {
    text: String,
}

impl FromStr for ByteCount {
    type Err = BadUnit;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "checked to lie between 0 and 2^60"
    )]
    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let bad = || BadUnit { text: text.chars().take(40).collect() };
        let trimmed = text.trim();
        if let Ok(bytes) = trimmed.parse() {
            return Ok(Self(bytes));
        }
        let (number, size) = UNITS
            .iter()
            .find_map(|(unit, size)| Some((trimmed.strip_suffix(unit)?, *size)))
            .or_else(|| Some((trimmed.strip_suffix('B')?, 1)))
            .ok_or_else(bad)?;
        let value = number.trim().parse::<f64>().map_err(|_| bad())? * size as f64;
        if (0.0..=(1_u64 << 60) as f64).contains(&value) { Ok(Self(value as u64)) } else { Err(bad()) }
    }
}

impl Sum for ByteCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        Self(counts.fold(0, |sum, count| sum.saturating_add(count.0)))
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// A duration for people: `61 us`, `3.1 ms`, `2.5 s`, `4 min 10 s`, `2 h 11 min`, `41 d`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_micros() {
        us @ 0..1_000 => format!("{us} us"),
        us @ 1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us / 100 % 10),
        us @ 1_000_000..60_000_000 => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
        _ if seconds < 3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ if seconds < 172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_like_dates() {
        for (time, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_593_599, "2026-11-25 07:59:59Z"),
            (2_147_483_648, "2038-01-19 03:14:08Z"),
        ] {
            assert_eq!(UnixTime(time).to_string(), text);
            assert_eq!(text.parse(), Ok(UnixTime(time)));
        }
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        assert_eq!("2000-02-29".parse(), Ok(UnixTime(951_782_400)));
        for bad in [
            "2001-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "26-01-01",
            "2026-01-01 24:00:00Z",
            "2026-01-01 10:00:00",
            "1969-12-31",
            "0000-01-01",
            "2026-01-01 ",
            "2026-1-1",
            "+026-01-01",
        ] {
            assert!(bad.parse::<UnixTime>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_back() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("512", 512), ("7B", 7)] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
        for bad in ["", "64MB", "-1KiB", "NaNKiB", "1e40KiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
        assert_eq!(ByteCount(96_800).to_string(), "94.5 KiB");
    }

    #[test]
    fn durations_read_like_speech() {
        for (us, text) in
            [(61, "61 us"), (3_140, "3.1 ms"), (250_000_000, "4 min 10 s"), (7_860_000_000, "2 h 11 min")]
        {
            assert_eq!(human_duration(Duration::from_micros(us)), text);
        }
    }
}
