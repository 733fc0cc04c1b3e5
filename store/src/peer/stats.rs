//! Counters of one peer, read by the metrics page under etcd's `etcd_network_*` names. Atomic and monotonic
//! but for the gauges; written by the peer's tasks, read at any time without a lock.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What one peer (or remote) has cost and answered since it was added.
pub struct Stats {
    /// Bytes of frames sent.
    pub sent_bytes: AtomicU64,
    /// Bytes of frames received.
    pub received_bytes: AtomicU64,
    /// Messages dropped or not delivered.
    pub sent_failures: AtomicU64,
    /// Streams that broke and messages that were refused on receipt.
    pub received_failures: AtomicU64,
    /// 1 while the peer answers.
    pub active: AtomicBool,
    /// Times the peer went from active to inactive.
    pub disconnected: AtomicU64,
    /// Seconds from a probe to its answer; buckets from 0.0001.
    pub round_trip: Histogram<16>,
    pub snapshot_send: SnapshotStats,
    pub snapshot_receive: SnapshotStats,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_failures: AtomicU64::new(0),
            received_failures: AtomicU64::new(0),
            active: AtomicBool::new(false),
            disconnected: AtomicU64::new(0),
            round_trip: Histogram::new(Duration::from_micros(100)),
            snapshot_send: SnapshotStats::default(),
            snapshot_receive: SnapshotStats::default(),
        }
    }
}

/// Snapshots in one direction.
pub struct SnapshotStats {
    pub success: AtomicU64,
    pub failures: AtomicU64,
    pub inflight: AtomicI64,
    /// Seconds per successful snapshot; buckets from 0.1.
    pub duration: Histogram<10>,
}

impl Default for SnapshotStats {
    fn default() -> Self {
        Self {
            success: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            inflight: AtomicI64::new(0),
            duration: Histogram::new(Duration::from_millis(100)),
        }
    }
}

impl SnapshotStats {
    /// Counts a transfer until [`Transfer::finish`]; one that is dropped before has failed.
    pub(crate) fn begin(&self) -> Transfer<'_> {
        self.inflight.fetch_add(1, Relaxed);
        Transfer { stats: self, started: std::time::Instant::now(), success: false }
    }
}

/// A snapshot under way.
pub(crate) struct Transfer<'a> {
    stats: &'a SnapshotStats,
    started: std::time::Instant,
    success: bool,
}

impl Transfer<'_> {
    pub(crate) fn finish(mut self) {
        self.success = true;
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.stats.inflight.fetch_sub(1, Relaxed);
        if self.success {
            self.stats.success.fetch_add(1, Relaxed);
            self.stats.duration.observe(self.started.elapsed());
        } else {
            self.stats.failures.fetch_add(1, Relaxed);
        }
    }
}

/// A histogram whose `N` bucket bounds double from `start`; what is longer than the last counts only in the
/// total.
pub struct Histogram<const N: usize> {
    start: Duration,
    buckets: [AtomicU64; N],
    count: AtomicU64,
    sum_nanoseconds: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub fn new(start: Duration) -> Self {
        Self {
            start,
            buckets: [const { AtomicU64::new(0) }; N],
            count: AtomicU64::new(0),
            sum_nanoseconds: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, value: Duration) {
        let bucket = (0..N).find(|&k| value <= self.start * (1 << k));
        if let Some(bucket) = bucket {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.sum_nanoseconds.fetch_add(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Upper bound in seconds and cumulative count, per bucket.
    pub fn buckets(&self) -> [(f64, u64); N] {
        let mut total = 0;
        std::array::from_fn(|k| {
            total += self.buckets[k].load(Relaxed);
            ((self.start * (1 << k)).as_secs_f64(), total)
        })
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanoseconds.load(Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_doubling() {
        let histogram = Histogram::<3>::new(Duration::from_millis(100));
        for milliseconds in [50, 100, 150, 400, 401] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.buckets(), [(0.1, 2), (0.2, 3), (0.4, 4)]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum_seconds() - 1.101).abs() < 1e-9);
    }

    #[test]
    fn a_dropped_transfer_is_a_failure() {
        let stats = SnapshotStats::default();
        drop(stats.begin());
        stats.begin().finish();
        let open = stats.begin();
        let counts =
            (stats.success.load(Relaxed), stats.failures.load(Relaxed), stats.inflight.load(Relaxed));
        assert_eq!(counts, (1, 1, 1));
        drop(open);
    }
}
