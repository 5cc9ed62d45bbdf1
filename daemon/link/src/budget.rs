//! Bytes per day: what a metered link may cost.
//!
//! In: how many bytes somebody wants to ask for. Out: whether they may. Bytes count when they are asked for, so that
//! nothing exceeds the budget, not even blocks that are lost on the way. A clock that goes back opens no new day.

use agentd_types::{ByteCount, UnixTime};

const DAY: u64 = 86_400;

/// Most bytes that are kept as spent before they are.
const MOST_AHEAD: u64 = 8 << 20;

/// What was spent of a budget on which day; kept by the caller over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BudgetSpent {
    /// Days since 1970 in UTC.
    pub day: u64,
    /// Bytes asked for on that day.
    pub bytes: ByteCount,
}

/// The bytes that all transfers together may ask for on one day.
#[derive(Clone, Debug)]
pub struct DayBudget {
    limit: Option<ByteCount>,
    spent: BudgetSpent,
}

impl DayBudget {
    /// No limit.
    pub const fn unlimited() -> Self {
        Self { limit: None, spent: BudgetSpent { day: 0, bytes: ByteCount(0) } }
    }

    /// At most `limit` a day, of which `spent` is gone already.
    pub const fn new(limit: ByteCount, spent: BudgetSpent) -> Self {
        Self { limit: Some(limit), spent }
    }

    /// Bytes left today.
    pub fn left(&mut self, now: UnixTime) -> ByteCount {
        self.turn(now);
        self.limit.map_or(ByteCount(u64::MAX), |limit| ByteCount(limit.0.saturating_sub(self.spent.bytes.0)))
    }

    /// Takes `bytes` out of today's budget if they are left.
    pub fn take(&mut self, bytes: u64, now: UnixTime) -> bool {
        if self.left(now).0 < bytes {
            return false;
        }
        self.spent.bytes.0 = self.spent.bytes.0.saturating_add(bytes);
        true
    }

    /// What to keep over a restart.
    pub const fn spent(&self) -> BudgetSpent {
        self.spent
    }

    /// What to keep while a transfer runs: a share of the limit more than is spent, so that a crash gives nothing back.
    pub fn ahead(&self) -> BudgetSpent {
        let limit = self.limit.map_or(u64::MAX, |limit| limit.0);
        let bytes = self.spent.bytes.0.saturating_add(share(limit)).min(limit);
        BudgetSpent { bytes: ByteCount(bytes), ..self.spent }
    }

    /// Whether so much was spent since `kept` was kept that it must be kept anew.
    pub fn outgrew(&self, kept: BudgetSpent) -> bool {
        let Some(limit) = self.limit else { return false };
        let room = kept.bytes.0.saturating_sub(self.spent.bytes.0);
        kept.day != self.spent.day || (room < share(limit.0) / 2 && kept.bytes < limit)
    }

    fn turn(&mut self, now: UnixTime) {
        let day = now.0 / DAY;
        if day > self.spent.day {
            self.spent = BudgetSpent { day, bytes: ByteCount(0) };
        }
    }
}

/// An eighth: what a crash may cost of the day.
fn share(limit: u64) -> u64 {
    (limit / 8).min(MOST_AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_never_less_than_what_is_spent() {
        let now = UnixTime(3 * DAY);
        let mut budget = DayBudget::new(ByteCount(800), BudgetSpent::default());
        let mut kept = BudgetSpent::default();
        for _ in 0..40 {
            budget.left(now);
            if budget.outgrew(kept) {
                kept = budget.ahead();
            }
            assert!(budget.take(20, now));
            assert!(kept.day == 3 && kept.bytes >= budget.spent().bytes, "{kept:?} {budget:?}");
            assert!(kept.bytes.0 <= budget.spent().bytes.0 + 100, "a crash costs an eighth at most");
        }
        assert!(!budget.take(1, now));
        assert!(!DayBudget::unlimited().outgrew(BudgetSpent::default()));
    }

    #[test]
    fn nothing_exceeds_the_day_and_a_clock_that_goes_back_opens_no_new_one() {
        let mut budget = DayBudget::new(ByteCount(100), BudgetSpent { day: 3, bytes: ByteCount(40) });
        let today = UnixTime(3 * DAY + 5);
        assert!(budget.take(60, today));
        assert!(!budget.take(1, today));
        assert!(!budget.take(1, UnixTime(2 * DAY)), "yesterday");
        assert!(budget.take(100, UnixTime(4 * DAY)), "tomorrow");
        assert!(!budget.take(1, UnixTime(4 * DAY + DAY - 1)));
        assert_eq!(budget.spent(), BudgetSpent { day: 4, bytes: ByteCount(100) });
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let mut budget = DayBudget::unlimited();
        assert!(budget.take(u64::MAX - 1, UnixTime(0)));
        assert!(budget.take(u64::MAX - 1, UnixTime(1)));
    }
}
