//! A short look through the simulator, so that `cargo test` alone runs it; `make simulate` looks longer.

use jepsen::sim;

const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn clusters_under_faults_answer_as_one_copy() {
    let mut operations = 0;
    for seed in 1..=40 {
        let report = sim::run(seed, 20 * SECOND_NS);
        if let Some(failure) = &report.failure {
            panic!("seed {seed} at {} ns, step {}: {}", failure.at_ns, failure.step, failure.what);
        }
        assert!(report.faults > 0, "seed {seed} had no faults");
        operations += report.operations;
    }
    assert!(operations > 40 * 500, "clients were hardly ever answered: {operations} operations");
}

#[test]
fn a_seed_goes_the_same_way_twice() {
    for seed in [1, 7, 23] {
        let [first, second] = [(); 2].map(|()| sim::run(seed, 20 * SECOND_NS));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert!(first.history == second.history, "seed {seed}: equal traces, and other answers");
        assert_eq!(first.events, second.events);
    }
}
