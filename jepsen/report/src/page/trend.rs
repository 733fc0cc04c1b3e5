//! Figures over the runs of a verb, as small lines.
//!
//! Drawn are the figures that have a goal, and all figures of verbs without one, where at least two runs have them.
//! A run that failed is a hollow dot; a dashed line is the goal, if it lies within twice the range that is drawn.

use std::fmt::Write as _;

use crate::{
    figure::{date, number},
    goals::{GOALS, Needed},
    html::escape,
    record::{Record, Verb},
};

/// Runs that are drawn: the newest.
const RUNS: usize = 60;

const WIDTH: f64 = 220.0;
const HEIGHT: f64 = 48.0;
const EDGE: f64 = 5.0;

struct Dot<'a> {
    value: f64,
    record: &'a Record,
}

pub fn render(records: &[Record]) -> String {
    let mut lines = String::new();
    for verb in Verb::ALL {
        let mut runs: Vec<&Record> = records.iter().filter(|record| record.verb == verb).collect();
        runs.sort_by_key(|record| record.began);
        let runs = &runs[runs.len().saturating_sub(RUNS)..];
        let mut has_goals = false;
        for goal in GOALS.iter().filter(|goal| goal.verb == verb) {
            has_goals = true;
            let (Needed::AtLeast(limit) | Needed::AtMost(limit)) = goal.needed;
            let dots = runs.iter().filter_map(|record| Some(Dot { value: goal.measured(record)?, record }));
            lines += &line(verb, goal.name, &dots.collect::<Vec<_>>(), Some(limit));
        }
        let Some(last) = runs.last().filter(|_| !has_goals) else { continue };
        for name in last.figures.keys() {
            let dots =
                runs.iter().filter_map(|record| Some(Dot { value: *record.figures.get(name)?, record }));
            lines += &line(verb, &name.replace('_', " "), &dots.collect::<Vec<_>>(), None);
        }
    }
    if lines.is_empty() {
        return "<h2>Trend</h2>\n<p class=faint>There is none before the second run of a verb.</p>\n"
            .to_owned();
    }
    format!(
        "<h2>Trend</h2>\n<p class=faint>Hollow dots are runs that failed; a dashed line is the goal.</p>\n<div class=columns>\n{lines}</div>\n"
    )
}

fn line(verb: Verb, name: &str, dots: &[Dot], goal: Option<f64>) -> String {
    let [.., last] = dots else { return String::new() };
    if dots.len() < 2 {
        return String::new();
    }
    let values = || dots.iter().map(|dot| dot.value);
    let (mut low, mut high) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let goal = goal.filter(|goal| *goal <= high.max(0.0) * 2.0 && *goal * 2.0 >= low);
    if let Some(goal) = goal {
        (low, high) = (low.min(goal), high.max(goal));
    }
    let range = if high > low { high - low } else { 1.0 };
    let x = |at: usize| EDGE + (WIDTH - 2.0 * EDGE) * at as f64 / (dots.len() - 1) as f64;
    let y = |value: f64| HEIGHT - EDGE - (HEIGHT - 2.0 * EDGE) * (value - low) / range;
    let mut svg = format!(
        "<figure><figcaption>{} {} <b>{}</b></figcaption>\n<svg width={WIDTH} height={HEIGHT} role=img>",
        verb.name(),
        escape(name),
        number(last.value)
    );
    if let Some(goal) = goal {
        let _ = write!(svg, "<line class=goal x1=0 x2={WIDTH} y1={0:.1} y2={0:.1} />", y(goal));
    }
    let points: Vec<String> =
        values().enumerate().map(|(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
    let _ = write!(svg, "<polyline points=\"{}\" />", points.join(" "));
    for (at, dot) in dots.iter().enumerate() {
        let class = if dot.record.failed() { "failed" } else { "held" };
        let _ = write!(
            svg,
            "<circle class={class} cx={:.1} cy={:.1} r=2.6><title>{}: {}</title></circle>",
            x(at),
            y(dot.value),
            date(dot.record.began),
            number(dot.value)
        );
    }
    svg + "</svg></figure>\n"
}
