//! A log-linear latency histogram: 128 buckets per power of two, so a percentile is at most 1/128 too high.
//! Owns counting and percentiles of durations in nanoseconds; memory is fixed (60 KB), recording is O(1).
//! Used by `load` for every operation measured. The minimum and maximum are exact.

use std::time::Duration;

const PRECISION_BITS: u32 = 7;
const LINEAR: u64 = 1 << (PRECISION_BITS + 1);
const BUCKETS: usize = ((64 - PRECISION_BITS as usize) << PRECISION_BITS) + (1 << PRECISION_BITS);

#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The smallest recorded value that at least `percent` of all values do not exceed, rounded up to its
    /// bucket's end; zero when nothing was recorded.
    pub fn percentile(&self, percent: f64) -> Duration {
        if self.total == 0 {
            return Duration::ZERO;
        }
        // Less a trifle: 99.9% of 1,000 is the 999th, whatever the rounding of the product.
        let rank = ((percent * self.total as f64 / 100.0 - 1e-6).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_bound(index).min(self.max_ns));
            }
        }
        self.max()
    }
}

/// Values below 256 have a bucket each; above, a value keeps its 8 leading bits.
fn bucket(ns: u64) -> usize {
    if ns < LINEAR {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - PRECISION_BITS;
    ((shift as usize) << PRECISION_BITS) + (ns >> shift) as usize
}

fn upper_bound(index: usize) -> u64 {
    if (index as u64) < LINEAR {
        return index as u64;
    }
    let shift = (index >> PRECISION_BITS) - 1;
    let leading = (index - (shift << PRECISION_BITS)) as u64;
    (leading << shift) + ((1u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|ns| histogram.record(Duration::from_nanos(ns)));
        histogram
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for ns in (0..2_000).chain((0..64).flat_map(|bit| {
            let power = 1u64 << bit;
            [power - 1, power, power + 1, power | (power >> 3)]
        })) {
            let index = bucket(ns);
            assert!(index < BUCKETS, "{ns}");
            assert!(upper_bound(index) >= ns, "{ns}");
            assert!(index == 0 || upper_bound(index - 1) < ns, "{ns}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(upper_bound(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn percentiles_are_within_one_bucket_of_the_exact_rank() {
        let histogram = of((1..=100_000).map(|i| i * 1_000));
        assert_eq!(histogram.count(), 100_000);
        for (percent, exact) in [(0.0, 1_000), (50.0, 50_000_000), (99.0, 99_000_000), (99.9, 99_900_000)] {
            let found = histogram.percentile(percent).as_nanos() as u64;
            assert!(found >= exact && found <= exact + exact / 128, "p{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), Duration::from_millis(100));
        assert_eq!(histogram.max(), Duration::from_millis(100));
    }

    #[test]
    fn one_slow_value_among_a_thousand_shows_only_above_p99_9() {
        let histogram = of((0..999).map(|_| 10).chain([5_000_000]));
        assert_eq!(histogram.percentile(99.9), Duration::from_nanos(10));
        assert_eq!(histogram.percentile(99.91), Duration::from_millis(5));
    }

    #[test]
    fn empty_is_zero() {
        assert_eq!(Histogram::default().percentile(99.0), Duration::ZERO);
    }
}
