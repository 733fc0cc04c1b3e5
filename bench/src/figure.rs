//! The figures a measurement yields, in one closed list: name, unit, which direction is better.
//! A `Sample` is one measurement; medians over rounds and ratios between servers work on any figure.
//! Used by the workloads (to fill) and `report`, `plot` (to show). Pure.

use crate::load::Measured;
use crate::usage::Probe;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Figure {
    Throughput,
    P50,
    P99,
    P999,
    Max,
    LongestGap,
    ServerCpu,
    ServerUser,
    ServerKernel,
    ClientCpu,
    Resident,
    Anonymous,
    Disk,
    RestartTime,
    QuietP999,
    QuietMax,
    QuietGap,
    Stall,
    CompactionTime,
    SaveTime,
    UnpackTime,
    RestoreTime,
    Errors,
}

impl Figure {
    /// Name in JSON, title, decimals shown; units stand last in the name.
    fn row(self) -> (&'static str, &'static str, usize) {
        match self {
            Figure::Throughput => ("throughput_per_second", "op/s", 0),
            Figure::P50 => ("p50_ms", "p50 ms", 2),
            Figure::P99 => ("p99_ms", "p99 ms", 2),
            Figure::P999 => ("p99_9_ms", "p99.9 ms", 2),
            Figure::Max => ("max_ms", "max ms", 1),
            Figure::LongestGap => ("longest_gap_ms", "gap ms", 1),
            Figure::ServerCpu => ("server_cpu_us_per_op", "server µs/op", 1),
            Figure::ServerUser => ("server_user_us_per_op", "user µs", 1),
            Figure::ServerKernel => ("server_kernel_us_per_op", "kernel µs", 1),
            Figure::ClientCpu => ("client_cpu_us_per_op", "client µs/op", 1),
            Figure::Resident => ("resident_mb", "RSS MB", 0),
            Figure::Anonymous => ("resident_anonymous_mb", "anon MB", 0),
            Figure::Disk => ("disk_mb", "disk MB", 0),
            Figure::RestartTime => ("restart_seconds", "restart s", 2),
            Figure::QuietP999 => ("quiet_p99_9_ms", "quiet p99.9 ms", 2),
            Figure::QuietMax => ("quiet_max_ms", "quiet max ms", 1),
            Figure::QuietGap => ("quiet_longest_gap_ms", "quiet gap ms", 1),
            Figure::Stall => ("stall_ms", "stall ms", 1),
            Figure::CompactionTime => ("compaction_seconds", "compaction s", 2),
            Figure::SaveTime => ("save_seconds", "save s", 2),
            Figure::UnpackTime => ("unpack_seconds", "unpack s", 2),
            Figure::RestoreTime => ("restore_seconds", "restore s", 2),
            Figure::Errors => ("errors", "errors", 0),
        }
    }

    pub fn name(self) -> &'static str {
        self.row().0
    }

    pub fn title(self) -> &'static str {
        self.row().1
    }

    pub fn show(self, value: f64) -> String {
        format!("{value:.*}", self.row().2)
    }

    pub fn more_is_better(self) -> bool {
        self == Figure::Throughput
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One measurement of one workload against one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Sample(BTreeMap<Figure, f64>);

impl Sample {
    /// Latency, throughput and CPU of a window, with memory and disk as they are now.
    pub fn of(measured: &Measured, probe: &Probe) -> io::Result<Self> {
        let mut sample = Self::default();
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let operations = measured.latencies.count().max(1) as f64;
        sample.set(Figure::Throughput, measured.latencies.count() as f64 / measured.elapsed.as_secs_f64());
        sample.set(Figure::P50, ms(measured.latencies.percentile(50.0)));
        sample.set(Figure::P99, ms(measured.latencies.percentile(99.0)));
        sample.set(Figure::P999, ms(measured.latencies.percentile(99.9)));
        sample.set(Figure::Max, ms(measured.latencies.max()));
        sample.set(Figure::LongestGap, ms(measured.longest_gap));
        sample.set(Figure::ClientCpu, measured.client_cpu.total() * 1e6 / operations);
        sample.set(Figure::Errors, measured.errors as f64);
        if !probe.pids.is_empty() {
            sample.set(Figure::ServerCpu, measured.server_cpu.total() * 1e6 / operations);
            sample.set(Figure::ServerUser, measured.server_cpu.user * 1e6 / operations);
            sample.set(Figure::ServerKernel, measured.server_cpu.kernel * 1e6 / operations);
        }
        sample.set_footprint(probe)?;
        Ok(sample)
    }

    /// Memory and disk of the server now; nothing for a server that runs elsewhere.
    pub fn set_footprint(&mut self, probe: &Probe) -> io::Result<()> {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        if !probe.pids.is_empty() {
            let memory = probe.memory()?;
            self.set(Figure::Resident, mb(memory.resident));
            self.set(Figure::Anonymous, mb(memory.anonymous));
        }
        if !probe.dirs.is_empty() {
            self.set(Figure::Disk, mb(probe.disk_bytes()));
        }
        Ok(())
    }

    pub fn set(&mut self, figure: Figure, value: f64) {
        self.0.insert(figure, value);
    }

    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    pub fn figures(&self) -> impl Iterator<Item = (Figure, f64)> {
        self.0.iter().map(|(figure, value)| (*figure, *value))
    }

    /// Figure by figure the median; of an even number of samples the mean of the middle two.
    pub fn median(samples: &[Sample]) -> Self {
        let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
        for (figure, value) in samples.iter().flat_map(Sample::figures) {
            values.entry(figure).or_default().push(value);
        }
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let half = values.len() / 2;
            if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
        };
        Self(values.into_iter().map(|(figure, values)| (figure, middle(values))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figures: &[(Figure, f64)]) -> Sample {
        Sample(figures.iter().copied().collect())
    }

    #[test]
    fn medians_are_taken_per_figure() {
        let samples = [
            sample(&[(Figure::P99, 9.0), (Figure::Throughput, 1.0)]),
            sample(&[(Figure::P99, 1.0), (Figure::Throughput, 3.0)]),
            sample(&[(Figure::P99, 2.0)]),
        ];
        let median = Sample::median(&samples);
        assert_eq!(median.get(Figure::P99), Some(2.0));
        assert_eq!(median.get(Figure::Throughput), Some(2.0));
        assert_eq!(median.get(Figure::Max), None);
        assert_eq!(Sample::median(&[]), Sample::default());
    }

    #[test]
    fn json_uses_the_names() {
        let json = serde_json::to_string(&sample(&[(Figure::ServerCpu, 1.5)])).expect("plain data");
        assert_eq!(json, r#"{"server_cpu_us_per_op":1.5}"#);
    }
}
