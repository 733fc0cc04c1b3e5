//! `bugs`: bugs that etcd once had, and ours, by name: each is made again, found, and not found without it.
//!
//! A row is red if a run of members that make the mistake fails by what that breaks, and green if the same run of
//! members that do not passes. A schedule that is kept must find its bug; when later changes made it miss, `replay
//! --shrink` makes another of a seed that does.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use jepsen::sim::{self, Plan, Report};
use report::{Row, State, Verb};

use super::{Done, cores, first_noticed, is_noticed, records};

/// Make each known bug again, and find it
#[derive(Args)]
pub struct Options {
    /// These bugs only, by their names
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Give a bug up after so many seeds
    #[arg(long, default_value_t = 5000)]
    seeds: u64,
    #[command(flatten)]
    place: records::Place,
}

/// A bug: its name, where it is known from, and the mistake that makes it.
struct Bug {
    name: &'static str,
    from: &'static str,
    mutant: &'static str,
}

const fn bug(name: &'static str, from: &'static str, mutant: &'static str) -> Bug {
    Bug { name, from, mutant }
}

/// As `correctness` programmes in the field number them: etcd-io/etcd's issues; the last are ours.
const BUGS: [Bug; 41] = [
    bug("index-ahead-of-data", "etcd #13766, #13514: members differ after a kill under load", "A1"),
    bug("auth-not-in-the-snapshot", "etcd #14571: rules stay as they were before a snapshot", "A13"),
    bug("single-member-loses-a-write", "etcd #14370: acknowledged before the log was synced", "D2"),
    bug("progress-ahead-of-events", "etcd #15220: a notice passes the events before it", "W3"),
    bug("watch-goes-back", "etcd #15271: events again after a snapshot", "W2"),
    bug("event-twice", "etcd #17247: an event is told twice", "W7"),
    bug("starved-stream", "etcd #17529: a slow reader loses events", "W1"),
    bug(
        "revision-falls",
        "etcd #17780: a restart lowers the revision, as if the last deletion had not been",
        "A11",
    ),
    bug("range-in-transaction", "etcd #18667: a range at a compacted revision, checked on one member", "A5"),
    bug(
        "tombstone-at-the-floor",
        "etcd #19179, #18089: a watch from the compacted revision misses a deletion",
        "A10",
    ),
    bug("watch-of-the-future", "etcd #20221: events from below the start", "W5"),
    bug("watch-from-now", "Jepsen on etcd 3.4.3: a watch from revision 0 begins elsewhere than now", "W11"),
    bug("watch-between-history-and-news", "Xline #677: what happens while a watch begins is lost", "W12"),
    bug("watch-below-zero", "etcd #20711: a watch from revision -1 is told nothing of the past", "W9"),
    bug("watch-behind-a-compaction", "etcd #17610: a slow watcher loses what was compacted", "W10"),
    bug("stale-read-after-a-pause", "etcd #20418: a read round's context is used again", "R2"),
    bug("read-at-a-deposed-leader", "etcd #741, #3879: a read is answered locally", "R1"),
    bug("new-leader-reads", "etcd #7331: a read before the first commit of the term", "R3"),
    bug("index-not-saved", "etcd #11652: entries are applied twice after a crash", "A2"),
    bug("snapshot-loses-a-batch", "etcd #20650: a snapshot while the store is replaced", "A12"),
    bug(
        "snapshot-gone-before-its-turn",
        "etcd #18055, #20133: the file of a snapshot is removed before it is taken over",
        "K5",
    ),
    bug("index-before-the-snapshot", "etcd #13933: the old index stays after a snapshot", "A3"),
    bug("unsynced-acknowledgement", "etcd #14098, #14140: power loss takes what was acknowledged", "D1"),
    bug("failed-sync-passes", "etcd #14143: a failed sync counts as done", "D7"),
    bug("directory-not-synced", "etcd #6368: a new segment is gone after a power loss", "D4"),
    bug("leases-of-a-deposed-leader", "etcd #12528, #15247: a stuck leader ends leases", "L2"),
    bug("keepalive-after-the-end", "etcd #20615: a lease that was revoked is kept alive", "L3"),
    bug("leases-never-end-under-auth", "etcd #13206: ends of leases are refused for want of a name", "L9"),
    bug("checkpoint-ignored", "etcd #17132, #14253: a new leader gives leases all of their time again", "L5"),
    bug("learner-promoted-behind", "etcd #15097, #11640: a learner votes before it has caught up", "M3"),
    bug("promotion-not-stored", "etcd #19557: a promotion is lost in a restart", "M5"),
    bug("update-promotes", "etcd #21736: a learner votes once its URLs are updated", "M4"),
    bug("zombie-members", "etcd #20967: raft goes on counting a member that was removed", "M2"),
    bug("keepalive-before-the-grant", "etcd #13932: a lease that was granted is not found", "L7"),
    bug("lease-below-zero", "etcd #14239: a lease with an ID below zero is gone after a restart", "L10"),
    bug("lease-ends-in-a-transfer", "Keelson: the old leader's end of a lease goes to the new one", "L8"),
    bug("history-ahead-of-the-news", "Keelson: a watcher that reads the history is told twice", "W8"),
    bug(
        "election-in-a-snapshot",
        "Keelson: a member stands for election while it takes over a snapshot",
        "K2",
    ),
    bug("older-snapshot-completed", "Keelson: a restart completes an older snapshot than the newest", "K3"),
    bug(
        "term-before-it-is-durable",
        "Keelson: a learner holds entries of a term that the lone voter forgot and led again",
        "K4",
    ),
    bug("view-not-called-stale", "Keelson: a read finds an old view", "K1"),
];

/// Schedules that were made small, of bugs that few seeds find.
const SCHEDULES: [(&str, &str); 9] = [
    ("stale-read-after-a-pause", include_str!("../../schedules/stale-read-after-a-pause.txt")),
    ("keepalive-before-the-grant", include_str!("../../schedules/keepalive-before-the-grant.txt")),
    ("lease-ends-in-a-transfer", include_str!("../../schedules/lease-ends-in-a-transfer.txt")),
    ("keepalive-after-the-end", include_str!("../../schedules/keepalive-after-the-end.txt")),
    ("older-snapshot-completed", include_str!("../../schedules/older-snapshot-completed.txt")),
    ("snapshot-gone-before-its-turn", include_str!("../../schedules/snapshot-gone-before-its-turn.txt")),
    ("index-before-the-snapshot", include_str!("../../schedules/index-before-the-snapshot.txt")),
    ("term-before-it-is-durable", include_str!("../../schedules/term-before-it-is-durable.txt")),
    ("history-ahead-of-the-news", include_str!("../../schedules/history-ahead-of-the-news.txt")),
];

/// Seeds are drawn with so many seconds of faults.
const CHAOS_MS: u64 = 30_000;

pub fn run(options: &Options) -> Done {
    let unknown = options.only.iter().find(|name| BUGS.iter().all(|bug| bug.name != **name));
    if let Some(name) = unknown {
        let names: Vec<&str> = BUGS.iter().map(|bug| bug.name).collect();
        return Err(format!("there is no bug {name}; known: {}", names.join(", ")));
    }
    // A member that panics is what is looked for, and told like any other failure.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let mut rows = Vec::new();
    for bug in
        BUGS.iter().filter(|bug| options.only.is_empty() || options.only.iter().any(|it| it == bug.name))
    {
        let row = make_and_find(bug, options.seeds);
        println!("{}: {}\n    {}", row.name, row.what, row.detail);
        rows.push(row);
    }
    let bad = rows.iter().filter(|row| row.state.is_bad()).count();
    let slowest = rows.iter().filter_map(|row| row.seconds).fold(0.0, f64::max);
    let line = format!("{} known bugs found again, {bad} not; {slowest:.1} s at most", rows.len() - bad);
    let mut record = records::record(Verb::Bugs, began.elapsed(), line.clone());
    record.rows = rows;
    options.place.save(&record)?;
    println!("{line}");
    Ok(bad == 0)
}

fn schedule(bug: &Bug) -> Option<Plan> {
    let (_, text) = SCHEDULES.iter().find(|(name, _)| *name == bug.name)?;
    Some(text.parse().expect("a kept schedule is a plan"))
}

fn noticed_by(bug: &Bug, plan: Plan) -> Option<Report> {
    let report = sim::run(&Plan { mutant: bug.mutant.to_owned(), ..plan });
    is_noticed(&report).then_some(report)
}

/// Whether a schedule is kept for a mistake; the run of it that notices the mistake, made when asked for.
pub fn kept(mutant: &str) -> Option<impl FnOnce() -> Option<Report>> {
    let bug = BUGS.iter().filter(|bug| bug.mutant == mutant);
    let (bug, plan) = bug.filter_map(|bug| Some((bug, schedule(bug)?))).next()?;
    Some(move || noticed_by(bug, plan))
}

fn make_and_find(bug: &Bug, seeds: u64) -> Row {
    let began = Instant::now();
    let row = Row::new(bug.name, bug.from, State::Failed);
    let kept = schedule(bug);
    let by = if kept.is_some() { "its schedule" } else { "seeds" };
    let red = match kept {
        Some(plan) => noticed_by(bug, plan),
        None => first_noticed(bug.mutant, CHAOS_MS, seeds, cores()),
    };
    let Some(red) = red else {
        let detail =
            format!("NOT FOUND by {by}; `make mutants ARGS='--only {}'` looks for a seed", bug.mutant);
        return Row { state: State::Unnoticed, detail, ..row };
    };
    let found_after = began.elapsed();
    let how =
        red.failure.as_ref().map_or("", |failure| failure.what.lines().next().unwrap_or_default()).to_owned();
    let green = sim::run(&Plan { mutant: String::new(), ..red.plan.clone() });
    if let Some(failure) = &green.failure {
        let detail = format!("seed {} fails without it too: {}", red.plan.seed, failure.what);
        return Row { detail, ..row };
    }
    let took = |time: Duration| time.as_secs_f64();
    Row {
        state: State::Noticed,
        detail: format!(
            "red with {} by {by}, seed {}, in {:.1} s: {how}; green without",
            bug.mutant,
            red.plan.seed,
            took(found_after)
        ),
        seconds: Some(took(found_after)),
        on: Some(today()),
        ..row
    }
}

/// Today, as `2026-01-31`.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
