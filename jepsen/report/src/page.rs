//! All records as one page: the state in one line, goals beside figures, a section for each verb, trends.
//!
//! A verb's newest record is its state; the older ones are its trend. The headline is computed from these:
//!
//! | headline | when |
//! |---|---|
//! | Failing | a newest record has a failing history, or a row that failed or was not noticed |
//! | Holds, with gaps | none has, but something was not run, was skipped, was never hit, or misses its goal |
//! | Holds | neither |

mod section;
mod trend;

use std::fmt::Write as _;

use crate::{
    figure::{counted, number},
    goals::{GOALS, Goal, Mark, Needed},
    html::{document, escape},
    record::{Record, State, Verb},
};

/// The page. Records in any order.
pub fn render(records: &[Record]) -> String {
    let newest: Vec<(Verb, Option<&Record>)> =
        Verb::ALL.into_iter().map(|verb| (verb, newest(records, verb))).collect();
    let mut body = headline(&newest);
    body += &goals(&newest);
    for (verb, record) in &newest {
        body += &section::render(*verb, *record);
    }
    body += &trend::render(records);
    document("Keelson: the proof", include_str!("page/page.css"), &body, "")
}

/// Of those that began last, the one that comes last.
fn newest(records: &[Record], verb: Verb) -> Option<&Record> {
    records.iter().filter(|record| record.verb == verb).max_by_key(|record| record.began)
}

fn headline(newest: &[(Verb, Option<&Record>)]) -> String {
    let (mut failures, mut gaps) = (Vec::new(), Vec::new());
    for (verb, record) in newest {
        let name = verb.name();
        let Some(record) = record else {
            gaps.push(format!("{name} was not run"));
            continue;
        };
        let rows = |state: State| record.rows.iter().filter(|row| row.state == state).count();
        let never = record.probes.values().filter(|&&hits| hits == 0).count();
        let say = |to: &mut Vec<String>, count: usize, noun: &str, what: &str| {
            if count > 0 {
                to.push(format!("{name}: {}{what}", counted(count, noun)));
            }
        };
        say(&mut failures, record.failures.len(), "failing run", "");
        say(&mut failures, rows(State::Failed), row_noun(*verb), " failed");
        say(&mut failures, rows(State::Unnoticed), row_noun(*verb), " not noticed");
        say(&mut gaps, rows(State::Skipped), row_noun(*verb), " skipped");
        say(&mut gaps, record.skipped.len(), "fault", " skipped");
        say(&mut gaps, never, "probe", " never hit");
    }
    for (mark, what) in [(Mark::Missed, " missed"), (Mark::Unmeasured, " without a figure")] {
        let count = GOALS.iter().filter(|goal| goal.mark(of(newest, goal.verb)) == mark).count();
        if count > 0 {
            gaps.push(format!("{}{what}", counted(count, "goal")));
        }
    }
    let (class, word) = match (failures.is_empty(), gaps.is_empty()) {
        (false, _) => ("bad", "Failing"),
        (true, false) => ("warn", "Holds, with gaps"),
        (true, true) => ("good", "Holds"),
    };
    let mut headline = format!("<h1>The proof</h1>\n<p class=\"headline {class}\">{word}</p>\n");
    for (class, findings) in [("bad", failures), ("faint", gaps)] {
        if !findings.is_empty() {
            let _ = writeln!(headline, "<p class={class}>{}</p>", escape(&findings.join(" · ")));
        }
    }
    headline
}

fn of<'a>(newest: &[(Verb, Option<&'a Record>)], verb: Verb) -> Option<&'a Record> {
    newest.iter().find(|(other, _)| *other == verb)?.1
}

/// What the rows of a verb are.
fn row_noun(verb: Verb) -> &'static str {
    match verb {
        Verb::Simulate | Verb::Chaos => "scenario",
        Verb::Mutants => "mutant",
        Verb::Bugs => "known bug",
        Verb::Fuzz => "fuzz target",
    }
}

fn goals(newest: &[(Verb, Option<&Record>)]) -> String {
    let mut table = String::from(
        "<h2>Goals</h2>\n<table id=goals>\n<thead><tr><th>verb<th>figure<th class=n>needed<th class=n>measured<th>\
         </thead>\n<tbody>\n",
    );
    for goal in &GOALS {
        let record = of(newest, goal.verb);
        let measured = record.and_then(|record| goal.measured(record));
        let (class, word) = match goal.mark(record) {
            Mark::Met => ("good", "✓ met"),
            Mark::Missed => ("bad", "✗ missed"),
            Mark::Unmeasured => ("warn", "? not measured"),
        };
        let _ = writeln!(
            table,
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}<td class={class}>{word}",
            goal.verb.name(),
            escape(goal.name),
            needed(goal),
            measured.map_or("–".to_owned(), number)
        );
    }
    table
        + "</tbody></table>\n<p class=faint>A goal in so many minutes judges a longer run by its share of that time; a \
           shorter one must reach the whole.</p>\n"
}

fn needed(goal: &Goal) -> String {
    let limit = match goal.needed {
        Needed::AtLeast(least) => format!("≥ {}", number(least)),
        Needed::AtMost(most) => format!("≤ {}", number(most)),
    };
    match goal.within_seconds {
        Some(seconds) => format!("{limit} in {} min", number(seconds / 60.0)),
        None => limit,
    }
}
