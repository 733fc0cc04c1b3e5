//! Answers in the formats of `-w`: simple, fields, json, table.

use std::io::{self, Write};

use crate::exit::{BAD_FEATURE, Exit, Outcome};

/// One row of named cells.
pub struct Answer {
    pub cells: Vec<Cell>,
}

pub struct Cell {
    /// In a table's heading, in lower case.
    pub heading: &'static str,
    pub field: &'static str,
    pub json: &'static str,
    pub number: i128,
    /// In rows; where it is more than the number.
    pub text: Option<String>,
}

impl Cell {
    pub fn new(
        heading: &'static str,
        field: &'static str,
        json: &'static str,
        number: impl Into<i128>,
    ) -> Cell {
        Cell { heading, field, json, number: number.into(), text: None }
    }

    pub fn shown_as(self, text: String) -> Cell {
        Cell { text: Some(text), ..self }
    }

    fn in_row(&self) -> String {
        self.text.clone().unwrap_or_else(|| self.number.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Fields,
    Json,
    Table,
    Protobuf,
}

impl Format {
    pub fn parse(name: &str) -> Outcome<Format> {
        Ok(match name {
            "simple" => Format::Simple,
            "fields" => Format::Fields,
            "json" => Format::Json,
            "table" => Format::Table,
            "protobuf" => Format::Protobuf,
            _ => return Err(Exit::new(BAD_FEATURE, "unsupported output format")),
        })
    }
}

pub fn print(format: Format, answer: &Answer) -> Outcome {
    Ok(io::stdout().write_all(render(format, answer)?.as_bytes())?)
}

fn render(format: Format, answer: &Answer) -> Outcome<String> {
    let cells = &answer.cells;
    Ok(match format {
        Format::Simple => {
            let row: Vec<String> = cells.iter().map(Cell::in_row).collect();
            format!("{}\n", row.join(", "))
        }
        Format::Fields => {
            cells.iter().map(|cell| format!("\"{}\" : {}\n", cell.field, cell.number)).collect()
        }
        Format::Json => {
            let pairs: Vec<String> =
                cells.iter().map(|cell| format!("\"{}\":{}", cell.json, cell.number)).collect();
            format!("{{{}}}\n", pairs.join(","))
        }
        Format::Table => table(cells),
        Format::Protobuf => return Err(Exit::new(BAD_FEATURE, "protobuf not supported as output format")),
    })
}

/// Upper-case headings in the middle, cells to the right.
fn table(cells: &[Cell]) -> String {
    let width = |cell: &Cell| cell.heading.len().max(cell.in_row().len());
    let line = |part: &dyn Fn(&Cell) -> String, edge: char| -> String {
        let parts: String = cells.iter().map(|cell| format!("{edge}{}", part(cell))).collect();
        format!("{parts}{edge}\n")
    };
    let rule = line(&|cell| "-".repeat(width(cell) + 2), '+');
    let headings = line(&|cell| format!(" {:^1$} ", cell.heading.to_uppercase(), width(cell)), '|');
    let row = line(&|cell| format!(" {:>1$} ", cell.in_row(), width(cell)), '|');
    format!("{rule}{headings}{rule}{row}{rule}")
}

/// A size in SI units with at most one decimal, as `dustin/go-humanize` writes it: `20 kB`, `1.5 MB`, `7 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut unit, mut divisor) = (0, 1u64);
    while unit + 1 < UNITS.len() && bytes / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let scaled = (bytes as f64 / divisor as f64 * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(scaled < 10.0);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_forms_of_etcdutl() {
        let answer = Answer {
            cells: vec![
                Cell::new("hash", "Hash", "hash", 0xf0aa_3c95_u32).shown_as("f0aa3c95".into()),
                Cell::new("total size", "Size", "totalSize", 20480).shown_as(size(20480)),
            ],
        };
        let texts = [Format::Simple, Format::Fields, Format::Json, Format::Table]
            .map(|format| render(format, &answer).unwrap());
        assert_eq!(texts[0], "f0aa3c95, 20 kB\n");
        assert_eq!(texts[1], "\"Hash\" : 4037688469\n\"Size\" : 20480\n");
        assert_eq!(texts[2], "{\"hash\":4037688469,\"totalSize\":20480}\n");
        let table = "+----------+------------+\n|   HASH   | TOTAL SIZE |\n+----------+------------+\n\
                     | f0aa3c95 |      20 kB |\n+----------+------------+\n";
        assert_eq!(texts[3], table);
        let error = render(Format::Protobuf, &answer).unwrap_err();
        assert_eq!(error, Exit::new(4, "protobuf not supported as output format"));
        assert!(Format::parse("xml").is_err());
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [(7, "7 B"), (999, "999 B"), (1500, "1.5 kB"), (2_147_483_648, "2.1 GB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
