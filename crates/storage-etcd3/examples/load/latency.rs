//! Latencies of a round, and what is said of ratios over rounds.

use std::time::Duration;

use serde_json::{Value, json};

/// Fewer samples than this have no 99th percentile.
const LEAST_SAMPLES: usize = 100;

// measures: storage-api/BENCH-07
/// The 99th percentile: of `n` sorted samples the one at `n * 99 / 100 - 1`; zero when there are fewer than 100.
pub(crate) fn p99(samples: &mut [Duration]) -> Duration {
    if samples.len() < LEAST_SAMPLES {
        return Duration::ZERO;
    }
    let at = samples.len() * 99 / 100 - 1;
    *samples.select_nth_unstable(at).1
}

/// The middle sample; zero when there are none.
pub(crate) fn p50(samples: &mut [Duration]) -> Duration {
    if samples.is_empty() {
        return Duration::ZERO;
    }
    let at = samples.len() / 2;
    *samples.select_nth_unstable(at).1
}

/// The middle of some figures and how far they reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of figures that are numbers; `None` when there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let above = *figures.get(middle)?;
        let median = match figures.len() % 2 {
            0 => (above + figures[middle - 1]) / 2.0,
            _ => above,
        };
        Some(Self {
            median,
            least: *figures.first()?,
            most: *figures.last()?,
        })
    }

    pub(crate) fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}..{:.2})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(samples: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        samples.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn the_99th_percentile_needs_100_samples_and_is_one_of_them() {
        let hundred = (0..98).map(|_| 10).chain([100, 50]);
        assert_eq!(p99(&mut milliseconds(hundred)), Duration::from_millis(50));
        let few = (0..98).map(|_| 10).chain([100]);
        assert_eq!(p99(&mut milliseconds(few)), Duration::ZERO);
        assert_eq!(p99(&mut milliseconds(1..=200)), Duration::from_millis(198));
        assert_eq!(p99(&mut []), Duration::ZERO);
    }

    #[test]
    fn the_median_is_between_the_middle_ones() {
        let spread = Spread::of([4.0, 1.0, f64::NAN, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of([2.0, 9.0, 1.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(p50(&mut milliseconds([3, 1, 2])), Duration::from_millis(2));
    }
}
