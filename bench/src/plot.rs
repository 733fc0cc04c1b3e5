//! The plot: panels of horizontal bars on a logarithmic axis, ours above the peer's, and one panel of how many
//! times better we are with a mark at each goal. Writes SVG text itself: a few rectangles need no library.

use crate::figure::Figure;
use crate::report::{Report, Row, Side};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LABEL_WIDTH: f64 = 200.0;
const VALUE_WIDTH: f64 = 90.0;
const BAR_HEIGHT: f64 = 11.0;
const ROW_GAP: f64 = 9.0;
const TITLE_HEIGHT: f64 = 44.0;
const OURS: &str = "#d9622b";
const PEER: &str = "#7a8ca3";
const TEXT: &str = "#222";

struct Bar {
    value: f64,
    text: String,
    colour: &'static str,
}

struct Group {
    label: String,
    bars: Vec<Bar>,
    /// Where the goal's mark stands.
    goal: Option<f64>,
}

pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut top = 10.0;
    for (title, figure) in [
        ("Server CPU per operation, µs (less is better)", Figure::ServerCpu),
        ("Operations per second (more is better)", Figure::Throughput),
        ("p99 latency, ms (less is better)", Figure::P99),
    ] {
        let groups = report.rows.iter().map(|row| sides(row, figure)).collect();
        top = panel(&mut body, top, title, groups);
    }
    top = panel(&mut body, top, "Times better than the peer, with the goal", verdicts(report));
    let names: Vec<String> =
        report.servers.iter().map(|server| format!("{}: {}", server.side, server.version)).collect();
    let _ = write!(
        body,
        r#"<text x="12" y="{:.0}" font-size="12"><tspan fill="{OURS}">■</tspan> ours <tspan fill="{PEER}">■</tspan> peer ({})</text>"#,
        top + 14.0,
        escape(&names.join(", ")),
    );
    format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0}" height="{h:.0}" "#,
            r#"viewBox="0 0 {w:.0} {h:.0}" font-family="sans-serif" fill="{text}">"#,
            r##"<rect width="100%" height="100%" fill="#fff"/>{body}</svg>"##,
            "\n"
        ),
        w = WIDTH,
        h = top + 28.0,
        text = TEXT,
        body = body,
    )
}

fn sides(row: &Row, figure: Figure) -> Group {
    let bars = [(Side::Ours, OURS), (Side::Peer, PEER)].into_iter().filter_map(|(side, colour)| {
        let value = row.median(side).get(figure)?;
        Some(Bar { value, text: figure.show(value), colour })
    });
    Group { label: row.name.to_owned(), bars: bars.collect(), goal: None }
}

fn verdicts(report: &Report) -> Vec<Group> {
    let verdicts = report.rows.iter().flat_map(Row::verdicts);
    verdicts
        .filter_map(|verdict| {
            let value = verdict.times_better?;
            Some(Group {
                label: format!("{} {}", verdict.row, verdict.figure.title()),
                bars: vec![Bar { value, text: format!("{value:.2}x"), colour: OURS }],
                goal: verdict.goal_times,
            })
        })
        .collect()
}

/// Draws below `top` and returns where the next panel may begin. Bars that no logarithmic axis can show are
/// left out, and with them groups and panels that hold nothing else.
fn panel(body: &mut String, top: f64, title: &str, mut groups: Vec<Group>) -> f64 {
    for group in &mut groups {
        group.bars.retain(|bar| bar.value.is_finite() && bar.value > 0.0);
    }
    groups.retain(|group| !group.bars.is_empty());
    let values = || groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value).chain(group.goal));
    let (Some(least), Some(most)) = (values().reduce(f64::min), values().reduce(f64::max)) else {
        return top;
    };
    let (first, last) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let span = WIDTH - LABEL_WIDTH - VALUE_WIDTH;
    let x = |value: f64| LABEL_WIDTH + (value.log10() - first) / (last - first) * span;

    let _ = write!(
        body,
        r#"<text x="12" y="{:.0}" font-size="15" font-weight="bold">{}</text>"#,
        top + 18.0,
        escape(title)
    );
    let height: f64 = groups.iter().map(|group| group.bars.len() as f64 * BAR_HEIGHT + ROW_GAP).sum();
    let begin = top + TITLE_HEIGHT;
    for exponent in first as i32..=last as i32 {
        let value = 10f64.powi(exponent);
        let _ = write!(
            body,
            concat!(
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="{y1:.1}" y2="{y2:.1}" stroke="#ddd"/>"##,
                r##"<text x="{x:.1}" y="{y0:.1}" font-size="10" text-anchor="middle" fill="#777">{value}</text>"##
            ),
            x = x(value),
            y0 = begin - 8.0,
            y1 = begin - 4.0,
            y2 = begin + height,
            value = value,
        );
    }
    let mut y = begin;
    for group in &groups {
        let group_height = group.bars.len() as f64 * BAR_HEIGHT;
        let _ = write!(
            body,
            r#"<text x="{:.1}" y="{:.1}" font-size="11" text-anchor="end">{}</text>"#,
            LABEL_WIDTH - 8.0,
            y + group_height / 2.0 + 4.0,
            escape(&group.label),
        );
        for (index, bar) in group.bars.iter().enumerate() {
            let bar_top = y + index as f64 * BAR_HEIGHT;
            let _ = write!(
                body,
                concat!(
                    r#"<rect x="{x0:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" fill="{colour}"/>"#,
                    r#"<text x="{xt:.1}" y="{yt:.1}" font-size="10">{text}</text>"#
                ),
                x0 = LABEL_WIDTH,
                y = bar_top,
                w = (x(bar.value) - LABEL_WIDTH).max(1.0),
                h = BAR_HEIGHT - 1.0,
                colour = bar.colour,
                xt = x(bar.value) + 4.0,
                yt = bar_top + 9.0,
                text = escape(&bar.text),
            );
        }
        if let Some(goal) = group.goal {
            let _ = write!(
                body,
                r##"<line x1="{0:.1}" x2="{0:.1}" y1="{1:.1}" y2="{2:.1}" stroke="#111" stroke-width="2"/>"##,
                x(goal),
                y - 2.0,
                y + group_height + 1.0,
            );
        }
        y += group_height + ROW_GAP;
    }
    y + 12.0
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn every_measured_side_has_a_bar_inside_the_picture() {
        let svg = svg(&example());
        // CPU and op/s of two sides, and two verdicts with a ratio.
        assert_eq!(svg.matches("<rect x=").count(), 6);
        assert_eq!(svg.matches("stroke-width").count(), 2);
        for attribute in svg.split("<rect x=\"").skip(1) {
            let left: f64 = attribute.split('"').next().and_then(|x| x.parse().ok()).expect("a number");
            assert!((0.0..WIDTH).contains(&left));
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_to_show_takes_no_room() {
        let mut body = String::new();
        let zero = Group {
            label: "zero".into(),
            bars: vec![Bar { value: 0.0, text: "0".into(), colour: OURS }],
            goal: None,
        };
        assert_eq!(panel(&mut body, 5.0, "empty", vec![zero]), 5.0);
        assert!(body.is_empty());
        assert_eq!(escape("a<b>&"), "a&lt;b&gt;&amp;");
    }
}
