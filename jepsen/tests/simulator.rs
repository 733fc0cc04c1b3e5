//! A short look through the simulator, so that `cargo test` alone runs it; `make simulate` looks longer.

use jepsen::sim::{self, PROBES, Plan};

const CHAOS_MS: u64 = 20_000;

#[test]
fn clusters_under_faults_answer_as_one_copy() {
    let (mut operations, mut faults) = (0, 0);
    for seed in 1..=60 {
        let report = sim::run(&Plan::draw(seed, CHAOS_MS));
        if let Some(failure) = &report.failure {
            panic!("seed {seed} at {} ns, step {}: {}", failure.at_ns, failure.step, failure.what);
        }
        let unlisted: Vec<_> = report.probes.keys().filter(|probe| !PROBES.contains(probe)).collect();
        assert!(unlisted.is_empty(), "seed {seed}: {unlisted:?} would never be missed");
        operations += report.operations;
        faults += report.faults;
    }
    assert!(operations > 60 * 500, "clients were hardly ever answered: {operations} operations");
    assert!(faults > 60, "hardly anything went wrong: {faults} faults");
}

#[test]
fn a_plan_goes_the_same_way_twice() {
    for seed in [1, 7, 14, 22, 23, 1000] {
        let plan = Plan::draw(seed, CHAOS_MS);
        let [first, second] = [(); 2].map(|()| sim::run(&plan));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert!(first.history == second.history, "seed {seed}: equal traces, and other answers");
        assert_eq!(first.events, second.events);
    }
}

/// Schedules that once failed, each of a bug that was mended.
#[test]
fn kept_schedules_pass() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schedules");
    let files: Vec<_> =
        std::fs::read_dir(&dir).expect("schedules").map(|file| file.expect("a file").path()).collect();
    assert!(!files.is_empty(), "no schedules in {}", dir.display());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a schedule");
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let report = sim::run(&Plan { mutant: String::new(), ..plan });
        if let Some(failure) = report.failure {
            panic!("{}: {}", file.display(), failure.what);
        }
    }
}
