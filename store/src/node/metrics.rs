//! Figures that the node counts itself; the metrics page reads them.

use std::{sync::atomic::AtomicU64, time::Duration};

use crate::peer::stats::Histogram;

pub struct Metrics {
    pub wal_fsync: Histogram<14>,
    pub wal_write: Histogram<14>,
    pub backend_commit: Histogram<14>,
    pub apply: Histogram<20>,
    pub snapshots: AtomicU64,
    pub puts: AtomicU64,
    pub deletes: AtomicU64,
    pub ranges: AtomicU64,
    pub txns: AtomicU64,
    pub compacted_keys: AtomicU64,
    pub lease_expired: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let milliseconds = || Histogram::new(Duration::from_millis(1));
        Metrics {
            wal_fsync: milliseconds(),
            wal_write: milliseconds(),
            backend_commit: milliseconds(),
            apply: Histogram::new(Duration::from_micros(100)),
            snapshots: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            ranges: AtomicU64::new(0),
            txns: AtomicU64::new(0),
            compacted_keys: AtomicU64::new(0),
            lease_expired: AtomicU64::new(0),
        }
    }
}
