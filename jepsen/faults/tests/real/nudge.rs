//! The preloaded library in other programs: `date`, and this test program itself, whose std goes through libc.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use faults::nudge::{Clock, Nudge, Times, available, find_library};
use tempfile::TempDir;

use crate::can;

const HOUR: Duration = Duration::from_secs(3600);

struct Setup {
    nudge: Nudge,
    library: PathBuf,
    dir: TempDir,
}

fn setup() -> Option<Setup> {
    if !can(available()) {
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let nudge = Nudge::new(&dir.path().join("page")).expect("a page");
    Some(Setup { nudge, library: find_library().expect("it is available"), dir })
}

/// This program again, doing what it is told line by line (`helper`).
struct Helper {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    fn start(setup: &Setup) -> Helper {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["nudge::helper", "--exact", "--ignored", "--nocapture"])
            .env("FAULTS_HELPER_FILE", setup.dir.path().join("file"))
            .envs(setup.nudge.env(&setup.library))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let asks = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Helper { child, asks, answers }
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.asks, "{what}").expect("ask");
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).expect("answer"), 0, "it ended at {what}");
            if let Some((_, answer)) = line.split_once("answer ") {
                return answer.trim().to_string();
            }
        }
    }

    fn nanoseconds(&mut self, what: &str) -> i128 {
        self.ask(what).parse().expect("a number")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer<T: ToString>(result: io::Result<T>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
    }
}

/// Not a test: what the tests below run under the library.
#[test]
#[ignore = "run by the other tests"]
fn helper() {
    let Some(path) = std::env::var_os("FAULTS_HELPER_FILE") else { return };
    let mut file = File::options().create(true).append(true).open(Path::new(&path)).expect("open");
    let origin = Instant::now();
    for line in io::stdin().lines() {
        let text = match line.expect("a line").as_str() {
            "realtime" => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .expect("after 1970")
                .as_nanos()
                .to_string(),
            "monotonic" => origin.elapsed().as_nanos().to_string(),
            "wait 20 ms" => {
                let (lock, condition) = (Mutex::new(()), Condvar::new());
                let guard = lock.lock().expect("not poisoned");
                drop(condition.wait_timeout(guard, Duration::from_millis(20)).expect("not poisoned"));
                "done".to_string()
            }
            "fsync" => answer(file.sync_all().map(|()| "ok")),
            "fdatasync" => answer(file.sync_data().map(|()| "ok")),
            "write" => answer(file.write(&[1; 100])),
            "write at" => answer(file.write_at(&[1; 100], 0)),
            "write several" => answer(file.write_vectored(&[IoSlice::new(&[1; 60]), IoSlice::new(&[1; 40])])),
            other => format!("what is {other}?"),
        };
        println!("answer {text}");
    }
}

#[test]
fn a_jump_is_seen_by_date_and_by_std() {
    let Some(setup) = setup() else { return };
    setup.nudge.jump(HOUR.as_nanos() as i64);
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let output =
        Command::new("date").arg("+%s").envs(setup.nudge.env(&setup.library)).output().expect("run date");
    let seconds: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
    assert!(seconds >= (before + HOUR).as_secs(), "{seconds}");
    assert_eq!(setup.nudge.counts().loaded, 1);
    assert!(setup.nudge.counts().clock_reads > 0);

    let mut helper = Helper::start(&setup);
    let ahead = |helper: &mut Helper| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
        helper.nanoseconds("realtime") - now as i128
    };
    assert!(ahead(&mut helper) >= HOUR.as_nanos() as i128);
    setup.nudge.jump(-2 * HOUR.as_nanos() as i64);
    assert!(ahead(&mut helper) < 0, "an hour back, unless this took an hour");
    assert_eq!(setup.nudge.counts().loaded, 2);
}

#[test]
fn a_clock_drifts_never_back_and_waits_still_end() {
    let Some(setup) = setup() else { return };
    let mut helper = Helper::start(&setup);
    setup.nudge.drift(Clock::Monotonic, 9_000_000);
    // By as much as the clock gained between the two readings, at least, they must differ.
    let first = helper.nanoseconds("monotonic");
    let ahead = setup.nudge.offset(Clock::Monotonic);
    let mut last = first;
    while setup.nudge.offset(Clock::Monotonic) - ahead < 450_000_000 {
        let now = helper.nanoseconds("monotonic");
        assert!(now >= last, "it went back");
        last = now;
    }
    let gained = setup.nudge.offset(Clock::Monotonic) - ahead;
    let last = helper.nanoseconds("monotonic");
    assert!(last - first >= i128::from(gained), "{} of {gained}", last - first);
    setup.nudge.calm();
    assert!(setup.nudge.offset(Clock::Monotonic) >= 450_000_000);
    // Far ahead of the kernel's clock: untranslated, this wait would last that much longer.
    setup.nudge.drift(Clock::Monotonic, i32::MAX);
    while setup.nudge.offset(Clock::Monotonic) < HOUR.as_nanos() as i64 / 10 {
        std::thread::yield_now();
    }
    setup.nudge.calm();
    let began = Instant::now();
    assert_eq!(helper.ask("wait 20 ms"), "done");
    assert!(began.elapsed() < HOUR / 20);
}

#[test]
fn syncs_fail_as_often_as_told() {
    let Some(setup) = setup() else { return };
    let mut helper = Helper::start(&setup);
    assert_eq!(helper.ask("fsync"), "ok");
    setup.nudge.fail_syncs(libc::EIO, Times::Next(2));
    let failed = format!("errno {}", libc::EIO);
    assert_eq!([helper.ask("fsync"), helper.ask("fdatasync")], [failed.clone(), failed]);
    assert_eq!(helper.ask("fdatasync"), "ok");
    setup.nudge.fail_syncs(libc::ENOSPC, Times::All);
    assert_eq!(helper.ask("fsync"), format!("errno {}", libc::ENOSPC));
    setup.nudge.calm();
    setup.nudge.delay_syncs(Duration::from_millis(30));
    let began = Instant::now();
    assert_eq!(helper.ask("fsync"), "ok");
    assert!(began.elapsed() >= Duration::from_millis(30));
    let counts = setup.nudge.counts();
    assert_eq!((counts.syncs, counts.syncs_failed, counts.syncs_delayed), (6, 3, 1));
}

#[test]
fn writes_fail_and_fall_short_in_files_only() {
    let Some(setup) = setup() else { return };
    let mut helper = Helper::start(&setup);
    assert_eq!(helper.ask("fsync"), "ok", "it has made its file");
    let length = || fs::metadata(setup.dir.path().join("file")).expect("stat").len();
    for how in ["write", "write at", "write several"] {
        let before = length();
        setup.nudge.fail_writes(libc::ENOSPC, Times::Next(1));
        assert_eq!(helper.ask(how), format!("errno {}", libc::ENOSPC), "{how}");
        setup.nudge.cut_writes(Times::Next(1));
        let cut = helper.ask(how);
        assert_eq!(cut, if how == "write several" { "30" } else { "50" }, "{how}");
        assert_eq!(helper.ask(how), "100", "{how}");
        assert_eq!(length() - before, cut.parse::<u64>().expect("a number") + 100, "{how}");
    }
    // The helper's answers go through a pipe: were it disturbed, none would come.
    setup.nudge.fail_writes(libc::EIO, Times::All);
    assert_eq!(helper.ask("write"), format!("errno {}", libc::EIO));
    assert_eq!(helper.ask("fsync"), "ok");
    let counts = setup.nudge.counts();
    assert_eq!((counts.writes_failed, counts.writes_cut), (4, 3));
}
