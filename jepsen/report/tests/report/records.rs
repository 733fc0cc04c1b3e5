//! What is saved is loaded, and a broken file is named.

#![expect(clippy::disallowed_methods, reason = "records are files")]

use std::fs;

use report::{FailureRef, Record, Row, State, Verb, load, save};

/// With something in every field.
pub fn record(verb: Verb, began: u64) -> Record {
    let mut record = Record::new(verb, began, 61.5, format!("closing line of {}", verb.name()));
    record.figures.insert("operations".into(), 1_234_567.0);
    record.figures.insert("rate".into(), 0.5);
    record.skipped.push(("disk full".into(), "no loop devices".into()));
    record.probes.insert("leader changed".into(), 12);
    record.probes.insert("snapshot sent twice".into(), 0);
    record.rows.push(Row {
        detail: "witness: stale read".into(),
        seeds: Some(7),
        seconds: Some(1.25),
        on: Some("2026-01-31".into()),
        ..Row::new("R1", "read served locally", State::Noticed)
    });
    record.failures.push(FailureRef { title: "seed 9".into(), timeline: Some("seed-9.html".into()) });
    record
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = dir.path().join("made/when/needed");
    let records = [
        record(Verb::Chaos, 20),
        record(Verb::Simulate, 10),
        record(Verb::Chaos, 30),
        Record::new(Verb::Fuzz, 40, 0.0, ""),
    ];
    records.iter().for_each(|record| save(&below, record).expect("saved"));
    let mut sorted = records.to_vec();
    sorted.sort_by_key(|record| record.began);
    assert_eq!(load(&below).expect("loaded"), sorted);
    let mut files: Vec<String> = fs::read_dir(&below)
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["chaos.json", "fuzz.json", "log.jsonl", "simulate.json"],
        "nothing else is left behind"
    );
    // The newest is there even if the log was lost.
    fs::remove_file(below.join("log.jsonl")).expect("removed");
    assert_eq!(load(&below).expect("loaded"), [&sorted[0], &sorted[2], &sorted[3]].map(Clone::clone));
}

#[test]
fn a_directory_without_records_has_none() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(load(dir.path()).expect("loaded"), []);
    assert_eq!(load(&dir.path().join("absent")).expect("loaded"), []);
}

#[test]
fn a_broken_file_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let saved = || {
        save(dir.path(), &record(Verb::Bugs, 1)).expect("saved");
        save(dir.path(), &record(Verb::Mutants, 2)).expect("saved");
    };
    saved();
    let log = dir.path().join("log.jsonl");
    let mut text = fs::read(&log).expect("read");
    let whole = text.clone();
    text.extend_from_slice(b"{\"verb\":\"simu");
    fs::write(&log, &text).expect("written");
    let told = load(dir.path()).expect_err("cut short").to_string();
    assert!(told.contains("log.jsonl line 3: EOF"), "{told}");

    fs::write(&log, &whole).expect("written");
    let cases: [(&str, &[u8], &str); 4] = [
        ("bugs.json", b"{}", "missing field `verb`"),
        ("mutants.json", b"\xff\xfe", "expected value"),
        ("chaos.json", &fs::read(dir.path().join("bugs.json")).expect("read"), "it is a record of bugs"),
        ("fuzz.json", b"{\"verb\":\"sleep\"}", "unknown variant `sleep`"),
    ];
    for (file, bytes, why) in cases {
        fs::write(dir.path().join(file), bytes).expect("written");
        let broken = load(dir.path()).expect_err("broken");
        assert_eq!((broken.path.clone(), broken.line), (dir.path().join(file), None));
        assert!(broken.why.contains(why), "{}", broken.why);
        fs::remove_file(dir.path().join(file)).expect("removed");
        saved();
    }
}

#[test]
fn older_records_may_lack_what_is_optional() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = r#"{"verb":"bugs","began":5,"took_seconds":1,"line":"x","rows":[{"name":"a","what":"b","state":"ok"}]}"#;
    fs::write(dir.path().join("log.jsonl"), format!("{old}\n\n")).expect("written");
    let mut record = Record::new(Verb::Bugs, 5, 1.0, "x");
    record.rows.push(Row::new("a", "b", State::Ok));
    assert_eq!(load(dir.path()).expect("loaded"), [record]);
}

#[test]
fn a_figure_that_is_no_number_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut record = record(Verb::Simulate, 1);
    record.figures.insert("rate".into(), f64::NAN);
    let error = save(dir.path(), &record).expect_err("JSON has no such number");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("rate is NaN"), "{error}");
    assert_eq!(load(dir.path()).expect("loaded"), []);
}
