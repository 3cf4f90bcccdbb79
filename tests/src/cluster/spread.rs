//! How measured times are spread. Pure.

use serde::Serialize;

/// Upper ends of the bins in which times are shown, milliseconds; the last has none.
const BINS_MS: [f64; 12] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0,
];

/// Times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    /// Upper end of a bin, none for the last, and how many are in it and in no
    /// lower one; bins without any are left out.
    pub(super) bins: Vec<(Option<f64>, usize)>,
}

impl Spread {
    /// Of times in milliseconds, in any order.
    pub(super) fn of(mut ms: Vec<f64>) -> Self {
        ms.sort_by(f64::total_cmp);
        // The least time that so many of a hundred do not exceed.
        let at = |percent: usize| {
            let rank = (ms.len() * percent).div_ceil(100);
            ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        let mut bins = Vec::new();
        let mut lower = f64::NEG_INFINITY;
        for upper in BINS_MS.map(Some).into_iter().chain([None]) {
            let end = upper.unwrap_or(f64::INFINITY);
            let count = ms.iter().filter(|ms| (lower..end).contains(ms)).count();
            if count > 0 {
                bins.push((upper, count));
            }
            lower = end;
        }
        Self {
            count: ms.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
            bins,
        }
    }

    /// Of times in nanoseconds.
    pub(super) fn of_ns(ns: impl IntoIterator<Item = u64>) -> Self {
        Self::of(ns.into_iter().map(ms).collect())
    }
}

/// Nanoseconds as milliseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 nanoseconds are a hundred days"
)]
pub(super) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(
            (spread.p50, spread.p90, spread.p99, spread.max),
            (100.0, 180.0, 198.0, 200.0)
        );
        assert_eq!(Spread::of(vec![7.0]).p99, 7.0);
        assert_eq!(Spread::of(Vec::new()).count, 0);
    }

    #[test]
    fn every_time_is_in_one_bin() {
        let spread = Spread::of(vec![0.0, 0.5, 0.9, 9000.0]);
        let expected = [(Some(0.5), 1), (Some(1.0), 2), (None, 1)];
        assert_eq!(spread.bins, expected);
    }
}
