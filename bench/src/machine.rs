//! What the figures were measured on: processors, memory, kernel, file system, and what an fsync costs there,
//! which bounds every single write. Read once per run; `report` prints it.

use crate::histogram::Histogram;
use crate::usage;
use serde::Serialize;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const FSYNC_PROBES: u32 = 100;
const FSYNC_BYTES: usize = 4096;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub date: String,
    pub processors: usize,
    pub processor: String,
    pub memory_gb: f64,
    pub kernel: String,
    pub filesystem: String,
    pub fsync_p50_ms: f64,
    pub fsync_p99_ms: f64,
}

impl Machine {
    pub fn look(data_dir: &Path) -> io::Result<Self> {
        let fsync = fsync_latencies(data_dir)?;
        let ms = |percent| fsync.percentile(percent).as_secs_f64() * 1e3;
        let line = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            found.trim_start_matches(['\t', ' ', ':']).to_owned()
        };
        let memory_kb = line("/proc/meminfo", "MemTotal:").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            date: date(since_epoch.as_secs() / 86_400),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor: line("/proc/cpuinfo", "model name"),
            memory_gb: memory_kb * 1024.0 / 1e9,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            filesystem: usage::filesystem_of(data_dir).unwrap_or_else(|| "unknown".to_owned()),
            fsync_p50_ms: ms(50.0),
            fsync_p99_ms: ms(99.0),
        })
    }
}

/// Overwrites and syncs one page again and again, as a log in preallocated space does.
fn fsync_latencies(dir: &Path) -> io::Result<Histogram> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut latencies = Histogram::default();
    for round in 0..=FSYNC_PROBES {
        let began = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[round as u8; FSYNC_BYTES])?;
        file.sync_data()?;
        // The first allocates the page.
        if round > 0 {
            latencies.record(began.elapsed());
        }
    }
    Ok(latencies)
}

/// Days since 1970 as year-month-day (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era_day = shifted % 146_097;
    let era_year = (era_day - era_day / 1_460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * era_year + era_year / 4 - era_year / 100);
    let month_from_march = (5 * year_day + 2) / 153;
    let day = year_day - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era_year + shifted / 146_097 * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_cross_leap_days_and_centuries() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(11_017), "2000-03-01");
        assert_eq!(date(20_453), "2025-12-31");
        assert_eq!(date(47_540), "2100-02-28");
        assert_eq!(date(47_541), "2100-03-01");
    }

    #[test]
    fn this_machine_has_processors_and_a_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let machine = Machine::look(dir.path()).expect("readable");
        assert!(
            machine.processors > 0 && machine.memory_gb > 0.0 && machine.fsync_p99_ms >= machine.fsync_p50_ms
        );
    }
}
