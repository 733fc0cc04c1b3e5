//! Tables drawn in ASCII, for answers about members and endpoints: upper-case centred headings, cells to the
//! right, and words of a cell longer than 30 columns spread over lines as evenly as they go.

use std::io;

use proto::etcdserverpb::MemberListResponse;

use super::rows::{self, Row};
use super::{EndpointHash, EndpointHealth, EndpointStatus, Out, Printer};
use crate::exit::Outcome;

pub struct Table;

const WIDEST_LINE: usize = 30;

impl Printer for Table {
    fn format(&self) -> &'static str {
        "table"
    }

    fn member_list(&self, out: Out, response: &MemberListResponse) -> Outcome {
        Ok(draw(out, rows::MEMBERS, &rows::members(response))?)
    }

    fn endpoint_health(&self, out: Out, list: &[EndpointHealth]) -> Outcome {
        Ok(draw(out, rows::HEALTH, &rows::health(list))?)
    }

    fn endpoint_status(&self, out: Out, list: &[EndpointStatus]) -> Outcome {
        Ok(draw(out, rows::STATUS, &rows::status(list))?)
    }

    fn endpoint_hashes(&self, out: Out, list: &[EndpointHash]) -> Outcome {
        Ok(draw(out, rows::HASHES, &rows::hashes(list))?)
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The lines of a cell, and the columns it claims: those of its text up to a full line, even if lines came out
/// shorter.
struct Cell {
    lines: Vec<String>,
    columns: usize,
}

impl Cell {
    fn new(text: &str) -> Self {
        let lines = wrap(text);
        let widest = lines.iter().map(|line| width(line)).max().unwrap_or(0);
        Self { lines, columns: widest.max(width(text).min(WIDEST_LINE)) }
    }
}

fn draw(out: Out, headings: &[&str], rows: &[Row]) -> io::Result<()> {
    let headings: Vec<String> = headings.iter().map(|heading| heading.to_uppercase()).collect();
    let rows: Vec<Vec<Cell>> =
        rows.iter().map(|row| row.iter().map(|cell| Cell::new(cell)).collect()).collect();
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].columns);
        cells.chain([width(&headings[column])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(widest).collect();
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    let centred = headings.iter().zip(&widths).map(|(heading, width)| format!("| {heading:^width$} "));
    writeln!(out, "{rule}+\n{}|\n{rule}+", centred.collect::<String>())?;
    for row in &rows {
        for line in 0..row.iter().map(|cell| cell.lines.len()).max().unwrap_or(0) {
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, "| {:>width$} ", cell.lines.get(line).map_or("", String::as_str))?;
            }
            writeln!(out, "|")?;
        }
    }
    writeln!(out, "{rule}+")
}

/// Breaks a cell between words, of which two spaces have an empty one between them, so that the squares of the gaps at
/// the ends of all lines but the last sum to the least. A word longer than a line widens all lines.
fn wrap(cell: &str) -> Vec<String> {
    let words: Vec<&str> = cell.split([' ', '\n']).collect();
    let limit = words.iter().map(|word| width(word)).max().unwrap_or(0).max(WIDEST_LINE);
    let count = words.len();
    // For the words from i on: the least cost, and where their first line ends.
    let mut cost = vec![usize::MAX; count];
    let mut line_end = vec![count; count];
    for start in (0..count).rev() {
        let mut length = 0;
        for end in start + 1..=count {
            length += width(words[end - 1]) + usize::from(end > start + 1);
            if length > limit {
                break;
            }
            let here = if end == count { 0 } else { (limit - length).pow(2) + cost[end] };
            // What fits on one line stays on one.
            if here < cost[start] || end == count {
                (cost[start], line_end[start]) = (here, end);
            }
        }
    }
    let mut lines = Vec::new();
    let mut start = 0;
    while start < count {
        lines.push(words[start..line_end[start]].join(" "));
        start = line_end[start];
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_long_cells_evenly() {
        assert_eq!(wrap("memberID:1 alarm:NOSPACE "), ["memberID:1 alarm:NOSPACE "]);
        assert_eq!(Cell::new("memberID:1 alarm:NOSPACE ").columns, 25);
        assert_eq!(Cell::new("memberID:10276657743932975437 alarm:NOSPACE").columns, 30);
        assert_eq!(
            wrap("memberID:10276657743932975437 alarm:NOSPACE "),
            ["memberID:10276657743932975437", "alarm:NOSPACE "]
        );
        assert_eq!(wrap("http://127.0.0.1:2380,http://127.0.0.1:2381").len(), 1);
        assert_eq!(wrap(""), [""]);
    }

    #[test]
    fn draws_no_rows_and_one() {
        let mut out = Vec::new();
        draw(&mut out, &["endpoint", "ID"], &[]).unwrap();
        assert_eq!(out, b"+----------+----+\n| ENDPOINT | ID |\n+----------+----+\n+----------+----+\n");
        out.clear();
        draw(&mut out, &["hash"], &[vec!["1198882477".into()]]).unwrap();
        assert_eq!(out, b"+------------+\n|    HASH    |\n+------------+\n| 1198882477 |\n+------------+\n");
    }
}
