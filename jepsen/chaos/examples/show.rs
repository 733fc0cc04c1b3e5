//! Prints a history that was kept, one operation or watch response a line: `show FILE [TEXT]`, only lines with TEXT.
//! Names are the numbers of its tables; `show FILE names` prints those.

use std::{io::Write, process::ExitCode};

use oracle::history::codec;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(file) = arguments.first() else {
        eprintln!("show FILE [TEXT]");
        return ExitCode::from(2);
    };
    let history = match std::fs::read(file).map(|bytes| codec::decode(&bytes)) {
        Ok(Ok(history)) => history,
        Ok(Err(error)) => {
            eprintln!("{file}: {error:?}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = arguments.get(1).map_or("", String::as_str);
    let mut lines: Vec<String> = Vec::new();
    if wanted == "names" {
        for (what, names) in [("key", &history.keys), ("value", &history.values)] {
            let text = |number: usize| String::from_utf8_lossy(names.bytes(number as u32)).into_owned();
            lines.extend((0..names.len()).map(|number| format!("{what} {number}: {}", text(number))));
        }
    } else {
        lines.extend(history.operations.iter().enumerate().map(|(at, it)| format!("{at} {it:?}")));
        for (at, stream) in history.streams.iter().enumerate() {
            let head = format!("stream {at} of {:?} to {:?}", stream.client, stream.member);
            lines.extend(stream.asked.iter().map(|it| format!("{head}: {it:?}")));
            lines.extend(stream.responses.iter().map(|it| format!("{head}: {it:?}")));
        }
        lines.retain(|line| line.contains(wanted));
    }
    let mut out = std::io::stdout().lock();
    for line in lines {
        // Who reads it may have seen enough.
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
