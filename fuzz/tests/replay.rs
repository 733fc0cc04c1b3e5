//! Every target on its seeds, on changed seeds, and on the inputs that once broke it.
//!
//! `KEELSON_FUZZ_MUTATIONS` says how many changed seeds a target gets. A failure prints the target and the input; the
//! input belongs into `regressions/<target>/` once its cause is known.

use std::{
    cell::Cell,
    fmt::Write as _,
    fs,
    panic::{catch_unwind, set_hook, take_hook},
    path::Path,
    sync::Once,
};

use fuzz::{TARGETS, Target, mutate};

const MUTATIONS: u64 = 400;

thread_local! {
    /// Panics of this thread, also those that a runtime keeps to itself because a task nobody waits for made them.
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            default(panic);
        }));
    });
}

/// Runs a target, which uses this thread only; on a panic the input in hexadecimal.
fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    count_panics();
    let before = PANICS.get();
    if catch_unwind(|| (target.run)(input)).is_ok() && PANICS.get() == before {
        return Ok(());
    }
    let mut text = format!("{}: ", target.name);
    for byte in input {
        let _ = write!(text, "{byte:02x}");
    }
    Err(text)
}

#[test]
fn names_are_unique_and_seeds_are_there() {
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TARGETS.len());
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        assert!(
            seeds.iter().all(|seed| seed.len() <= target.max_bytes),
            "a seed of {} is too long",
            target.name
        );
    }
}

#[test]
fn seeds_and_changed_seeds() {
    let mutations =
        std::env::var("KEELSON_FUZZ_MUTATIONS").map_or(MUTATIONS, |it| it.parse().expect("a number"));
    let mut failures = Vec::new();
    for target in TARGETS {
        let seeds = (target.seeds)();
        for seed in &seeds {
            failures.extend(run(target, seed).err());
        }
        for number in 0..mutations {
            let seed = &seeds[number as usize % seeds.len()];
            let other = &seeds[(number as usize / seeds.len()) % seeds.len()];
            let input = mutate::mutated(seed, other, number, target.max_bytes);
            if let Err(failure) = run(target, &input) {
                failures.push(failure);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "targets failed:\n{}", failures.join("\n"));
}

#[test]
fn what_broke_once_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut failures = Vec::new();
    for dir in fs::read_dir(&root).expect("the regressions").map(|entry| entry.expect("an entry").path()) {
        if !dir.is_dir() {
            continue;
        }
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let target = fuzz::target(&name).unwrap_or_else(|| panic!("regressions/{name}: no such target"));
        for file in fs::read_dir(&dir).expect("its inputs").map(|entry| entry.expect("an entry").path()) {
            let input = fs::read(&file).expect("an input");
            failures
                .extend(run(target, &input).err().map(|failure| format!("{}: {failure}", file.display())));
        }
    }
    assert!(failures.is_empty(), "inputs that broke something once break it again:\n{}", failures.join("\n"));
}
