//! The page tells all that the records hold, and computes its marks.

use report::{FailureRef, Record, Row, State, Verb, page::render};

use crate::{assert_holds, records::record};

/// One record of each verb that reaches every goal.
fn complete() -> Vec<Record> {
    let mut records: Vec<Record> =
        Verb::ALL.into_iter().map(|verb| Record::new(verb, 1_767_225_600, 500.0, "done")).collect();
    let figures: [&[(&str, f64)]; 2] = [
        &[
            ("seeds", 3_000.0),
            ("simulated_hours", 100.0),
            ("operations", 15e6),
            ("faults", 50_000.0),
            ("simulated_seconds_per_core_second", 300.0),
            ("replayed", 30.0),
            ("replays_differing", 0.0),
            ("checked_per_core_second", 2e6),
        ],
        &[("runs", 60.0), ("faults", 180.0), ("operations", 1e6)],
    ];
    for (record, figures) in records.iter_mut().zip(figures) {
        record.figures.extend(figures.iter().map(|(name, value)| ((*name).to_owned(), *value)));
    }
    let noticed = Row {
        seeds: Some(50),
        seconds: Some(60.0),
        on: Some("2026-01-01".into()),
        ..Row::new("D1", "", State::Noticed)
    };
    records[2].rows.push(noticed.clone());
    records[3].rows.push(noticed);
    records
}

fn headline(page: &str) -> &str {
    let start = page.find("<p class=\"headline").expect("a headline");
    page[start..].lines().next().expect("a line")
}

fn row<'a>(page: &'a str, part: &str) -> &'a str {
    page.lines()
        .find(|line| line.starts_with("<tr>") && line.contains(part))
        .unwrap_or_else(|| panic!("no row of {part}"))
}

#[test]
fn the_headline_is_computed() {
    let mut records = complete();
    assert_holds(headline(&render(&records)), &["good", ">Holds<"]);
    assert_holds(headline(&render(&records[1..])), &["warn", "Holds, with gaps"]);
    records[0].probes.insert("never".into(), 0);
    assert_holds(headline(&render(&records)), &["Holds, with gaps"]);
    records[0].probes.clear();
    records[0].figures.insert("seeds".into(), 2_999.0);
    assert_holds(headline(&render(&records)), &["Holds, with gaps"]);
    records[2].rows.push(Row::new("R9", "", State::Unnoticed));
    assert_holds(headline(&render(&records)), &["bad", ">Failing<"]);
    assert_holds(&render(&records), &["mutants: 1 mutant not noticed"]);
    records[2].rows.pop();
    records[4].failures.push(FailureRef { title: "crash".into(), timeline: None });
    assert_holds(headline(&render(&records)), &[">Failing<"]);
    // A newer run without it holds again.
    records.push(Record::new(Verb::Fuzz, 1_767_300_000, 1.0, "no crash"));
    assert_holds(headline(&render(&records)), &["Holds, with gaps"]);
}

#[test]
fn goals_are_marked_by_the_figures() {
    let mut records = complete();
    let page = render(&records);
    assert_eq!(page.matches("✓ met").count(), 14);
    assert_holds(row(&page, "<td>simulated cluster-hours"), &["≥ 100 in 10 min", "<td class=n>100<", "met"]);
    records[0].took_seconds = 1_200.0;
    records[1].figures.remove("runs");
    records[2].rows[0].seeds = Some(51);
    let page = render(&records);
    assert_holds(row(&page, "<td>simulated cluster-hours"), &["missed"]);
    assert_holds(row(&page, "<td>runs"), &["not measured"]);
    assert_holds(row(&page, "<td>seeds until noticed"), &["51", "missed"]);
}

#[test]
fn all_of_a_record_is_told() {
    let mut records: Vec<Record> = Verb::ALL.into_iter().map(|verb| record(verb, 1_767_225_600)).collect();
    records[1].figures.insert("faults.kill".into(), 31.0);
    records[1].figures.insert("faults.pause".into(), 12.0);
    records[3].rows.push(Row::new("14370", "a single member loses a write", State::Skipped));
    let page = render(&records);
    for verb in Verb::ALL {
        assert_holds(&page, &[&format!("closing line of {}", verb.name())]);
    }
    assert_holds(
        &page,
        &[
            "2026-01-01 00:00 UTC, took 1 min 2 s",
            "<td>operations<td class=n>1,234,567",
            "disk full<td>no loop devices",
            "<td>kill<td class=n>31<td><i class=amount style=\"width:120px\">",
            "<td>pause<td class=n>12<td><i class=amount style=\"width:46px\">",
            "1 hit of 2 probes",
            "<li>snapshot sent twice",
            "<li><a href=\"./seed-9.html\">seed 9</a>",
            "witness: stale read",
        ],
    );
    assert_holds(row(&page, "14370"), &["– skipped", "never"]);
    assert_holds(row(&page, "<b>R1</b>"), &["✓ noticed", "<td class=n>7<", "1.25 s", "2026-01-31"]);
}

#[test]
fn older_runs_are_the_trend() {
    let run = |began: u64, seeds: f64| {
        let mut record = Record::new(Verb::Simulate, began, 500.0, format!("{seeds} seeds"));
        record.figures.insert("seeds".into(), seeds);
        record
    };
    let mut records = vec![run(300, 2_500.0), run(100, 1_000.0), run(200, 2_000.0)];
    records[2].failures.push(FailureRef { title: "seed 4".into(), timeline: None });
    let page = render(&records);
    assert_holds(&page, &["2500 seeds", "simulate seeds <b>2,500</b>", "<line class=goal"]);
    assert_eq!(
        (page.matches("<circle class=held").count(), page.matches("<circle class=failed").count()),
        (2, 1)
    );
    // From left to right in time, and higher is more.
    let start = page.find("<polyline points=\"").expect("a line") + "<polyline points=\"".len();
    let points = page[start..].split('"').next().expect("points").split(' ');
    let points: Vec<Vec<f64>> =
        points.map(|point| point.split(',').map(|it| it.parse().expect("a number")).collect()).collect();
    assert!(points.is_sorted_by(|a, b| a[0] < b[0] && a[1] > b[1]), "{points:?}");
    assert_holds(&render(&records[..1]), &["There is none before the second run"]);
}

#[test]
fn no_text_of_a_record_opens_a_tag() {
    let hostile = "<img src=x onerror=alert(1)>\"'&";
    let mut records: Vec<Record> = Verb::ALL.into_iter().map(|verb| record(verb, 7)).collect();
    for record in &mut records {
        record.line = hostile.into();
        for figure in [hostile.to_owned(), format!("faults.{hostile}")] {
            record.figures.insert(figure, 1.0);
        }
        record.skipped.push((hostile.into(), hostile.into()));
        record.probes.insert(hostile.into(), 0);
        record.rows.push(Row {
            detail: hostile.into(),
            on: Some(hostile.into()),
            ..Row::new(hostile, hostile, State::Failed)
        });
        record
            .failures
            .push(FailureRef { title: hostile.into(), timeline: Some(format!("javascript:{hostile}")) });
    }
    let older: Vec<Record> = records.iter().map(|record| Record { began: 1, ..record.clone() }).collect();
    records.extend(older);
    let page = render(&records);
    assert!(!page.contains("<img"), "no tag comes from data");
    assert!(!page.contains("href=\"javascript"), "no script comes from data");
    assert_eq!(page.matches("<script").count(), 0);
}

#[test]
fn without_records_everything_is_missing() {
    let page = render(&[]);
    assert_holds(&page, &["Holds, with gaps", "simulate was not run", "14 goals without a figure"]);
    assert_eq!(page.matches("Not run.").count(), 5);
}
