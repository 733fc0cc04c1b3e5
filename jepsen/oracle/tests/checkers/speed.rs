//! How many operations are checked in a second. Run by hand:
//! `cargo test --release -p jepsen --test checkers -- --ignored --nocapture --test-threads 1 speed`.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use oracle::{
    check::{Rules, Verdict, cycle, linear, witness},
    history::codec,
};

use crate::{
    cycles,
    generate::{ALL, PLAIN, Shape, run},
};

/// Processor time of this thread in seconds, so that what else the machine does is left out.
fn processor_seconds() -> f64 {
    let bytes = std::fs::read("/proc/thread-self/schedstat").expect("Linux");
    let text = String::from_utf8(bytes).expect("numbers");
    let nanoseconds: f64 = text.split(' ').next().expect("a number").parse().expect("a number");
    nanoseconds / 1e9
}

/// The best of three, per second of one core.
fn per_second(what: &str, count: usize, mut run: impl FnMut()) {
    let seconds = (0..3).map(|_| {
        let start = processor_seconds();
        run();
        processor_seconds() - start
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    println!("{what}: {:.2} million/s ({count} in {best:.3} s)", count as f64 / best / 1e6);
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let long = Shape { clients: 64, operations: 1_000_000, keys: 100, ..PLAIN };
    let long_all = Shape { clients: 64, operations: 1_000_000, keys: 100, regrants: false, ..ALL };
    let shapes = [
        ("reads and puts of one key", Shape { ranges: 0, txns: 0, ..long }),
        ("a few ranges, deletes and transactions", Shape { ranges: 3, txns: 5, ..long }),
        ("many of them", long),
        ("leases, compactions, old and local reads too", Shape { unknown_per_mille: 0, ..long_all }),
        ("the same, 0.1 % unknown", Shape { unknown_per_mille: 1, ..long_all }),
    ];
    for (name, shape) in shapes {
        let run = run(&shape, 1).with_watch(1);
        let rules = Rules::default();
        let count = run.history.operations.len();
        per_second(name, count, || {
            let judged = linear::check(&run.history, &rules);
            assert_eq!(judged.verdict, Verdict::Ok);
            assert!(!judged.searched);
        });
        per_second("  witness alone", count, || {
            assert!(matches!(witness::witness(&run.history, &rules), witness::Witnessed::Ordered(_)));
        });
        let bytes = codec::encode(&run.history);
        println!("  encoded: {:.1} bytes per operation", bytes.len() as f64 / count as f64);
    }
    let txns = cycles::serializable_txns(200_000, 64, 7);
    per_second("cycle check, transactions", txns.len(), || assert_eq!(cycle::check(&txns), Verdict::Ok));
}
