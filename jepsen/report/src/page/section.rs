//! One verb: its closing line, figures, faults, probes, rows and failing histories.

use std::fmt::Write as _;

use crate::{
    figure::{count, counted, date, number, span},
    html::{escape, link},
    record::{Record, Row, State, Verb},
};

/// Figures of kinds of faults begin so.
const FAULTS: &str = "faults.";

pub fn render(verb: Verb, record: Option<&Record>) -> String {
    let title = match verb {
        Verb::Simulate => "Simulation",
        Verb::Chaos => "Chaos on real processes",
        Verb::Mutants => "Mutants",
        Verb::Bugs => "Known bugs",
        Verb::Fuzz => "Fuzzing",
    };
    let mut section = format!("<h2 id={}>{title}</h2>\n", verb.name());
    let Some(record) = record else {
        return section + "<p class=warn>Not run.</p>\n";
    };
    let state = if record.failed() { "<span class=bad>✗</span>" } else { "<span class=good>✓</span>" };
    let _ = writeln!(
        section,
        "<p>{state} <code>{}</code><br><span class=faint>{}, took {}</span></p>",
        escape(&record.line),
        date(record.began),
        span(record.took_seconds)
    );
    section += &failures(record);
    section += "<div class=columns>\n";
    section += &figures(record);
    section += &faults(record);
    section += &skipped(record);
    section += &probes(record);
    section += "</div>\n";
    section + &rows(verb, record)
}

fn failures(record: &Record) -> String {
    let mut list = String::new();
    for failure in &record.failures {
        let title = escape(&failure.title);
        let _ = match &failure.timeline {
            Some(file) => writeln!(list, "<li><a href=\"{}\">{title}</a>", link(file)),
            None => writeln!(list, "<li>{title} <span class=faint>(without a timeline)</span>"),
        };
    }
    if list.is_empty() { list } else { format!("<h3>Failing histories</h3>\n<ul class=bad>\n{list}</ul>\n") }
}

fn table(title: &str, rows: &str) -> String {
    if rows.is_empty() {
        String::new()
    } else {
        format!("<div><h3>{title}</h3>\n<table>\n{rows}</table></div>\n")
    }
}

fn figures(record: &Record) -> String {
    let mut rows = String::new();
    for (name, value) in record.figures.iter().filter(|(name, _)| !name.starts_with(FAULTS)) {
        let _ = writeln!(rows, "<tr><td>{}<td class=n>{}", escape(&name.replace('_', " ")), number(*value));
    }
    table("Figures", &rows)
}

/// The commonest first, with bars in proportion.
fn faults(record: &Record) -> String {
    let of_kind = |(name, value): (&String, &f64)| Some((name.strip_prefix(FAULTS)?.to_owned(), *value));
    let mut kinds: Vec<(String, f64)> = record.figures.iter().filter_map(of_kind).collect();
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = kinds.first().map_or(1.0, |(_, most)| most.max(1.0));
    let mut rows = String::new();
    for (kind, injected) in &kinds {
        let _ = writeln!(
            rows,
            "<tr><td>{}<td class=n>{}<td><i class=amount style=\"width:{:.0}px\"></i>",
            escape(kind),
            number(*injected),
            (injected / most * 120.0).clamp(0.0, 120.0)
        );
    }
    table("Faults injected", &rows)
}

fn skipped(record: &Record) -> String {
    let mut rows = String::new();
    for (fault, why) in &record.skipped {
        let _ = writeln!(rows, "<tr><td class=warn>{}<td>{}", escape(fault), escape(why));
    }
    table("Faults skipped", &rows)
}

fn probes(record: &Record) -> String {
    if record.probes.is_empty() {
        return String::new();
    }
    let never: Vec<&String> =
        record.probes.iter().filter(|(_, hits)| **hits == 0).map(|(name, _)| name).collect();
    let mut list = format!(
        "<div><h3>Probes</h3>\n<p>{} hit of {}.</p>\n",
        count(record.probes.len() - never.len()),
        counted(record.probes.len(), "probe")
    );
    if !never.is_empty() {
        list += "<p class=warn>Never hit:</p>\n<ul class=never>\n";
        for name in never {
            let _ = writeln!(list, "<li>{}", escape(name));
        }
        list += "</ul>\n";
    }
    list += "<details><summary>All, the rarest first</summary>\n<table>\n";
    let mut all: Vec<(&String, &u64)> = record.probes.iter().collect();
    all.sort_by_key(|(_, hits)| **hits);
    for (name, hits) in all {
        let _ = writeln!(list, "<tr><td>{}<td class=n>{}", escape(name), number(*hits as f64));
    }
    list + "</table></details></div>\n"
}

fn rows(verb: Verb, record: &Record) -> String {
    if record.rows.is_empty() {
        return String::new();
    }
    let name = match verb {
        Verb::Simulate | Verb::Chaos => "scenario",
        Verb::Mutants => "mutant",
        Verb::Bugs => "bug",
        Verb::Fuzz => "target",
    };
    let is_red = |row: &Row| row.on.is_some();
    let has_seeds = record.rows.iter().any(|row| row.seeds.is_some());
    let has_seconds = record.rows.iter().any(|row| row.seconds.is_some());
    let has_date = verb == Verb::Bugs || record.rows.iter().any(is_red);
    let mut table = format!("<table class=rows>\n<thead><tr><th>{name}<th>what<th>state");
    for (has, head) in [(has_seeds, "seeds"), (has_seconds, "took"), (has_date, "last red")] {
        if has {
            let _ = write!(table, "<th class=n>{head}");
        }
    }
    table += "<th>detail</thead>\n<tbody>\n";
    for row in &record.rows {
        let (class, state) = state(row.state);
        let _ = write!(
            table,
            "<tr><td><b>{}</b><td>{}<td class={class}>{state}",
            escape(&row.name),
            escape(&row.what)
        );
        if has_seeds {
            let _ = write!(
                table,
                "<td class=n>{}",
                row.seeds.map_or(String::new(), |seeds| number(seeds as f64))
            );
        }
        if has_seconds {
            let _ = write!(table, "<td class=n>{}", row.seconds.map_or(String::new(), span));
        }
        if has_date {
            let never = "<span class=warn>never</span>".to_owned();
            let _ = write!(table, "<td class=n>{}", row.on.as_deref().map_or(never, escape));
        }
        let _ = writeln!(table, "<td>{}", escape(&row.detail));
    }
    table + "</tbody></table>\n"
}

/// Class and words; the sign tells it without colour too.
fn state(state: State) -> (&'static str, &'static str) {
    match state {
        State::Ok => ("good", "✓ ok"),
        State::Noticed => ("good", "✓ noticed"),
        State::Failed => ("bad", "✗ failed"),
        State::Unnoticed => ("bad", "✗ not noticed"),
        State::Skipped => ("warn", "– skipped"),
    }
}
