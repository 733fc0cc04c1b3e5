//! One command of a story, run through either client, and what came of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::OURS;
use crate::server::Server;

/// A command that hangs is killed, which shows as a difference.
const LONGEST_RUN: Duration = Duration::from_secs(30);

/// One line of the story.
pub struct Case {
    pub line: &'static str,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    stdin: String,
    /// Both clients ask the first twin: for what differs between twins and changes nothing.
    pub same_server: bool,
    /// A command that does not end is stopped after so many lines.
    lines: Option<usize>,
    masks: Vec<&'static str>,
    without_endpoints: bool,
    /// Ours alone is given `--range`, which 3.5 does not know and 3.6 asks for.
    range: bool,
    /// Help is compared up to its options: our list differs.
    usage: bool,
    /// Only the last line of standard error is compared: before it the real one explains at length.
    last_line: bool,
    /// The added member's id, which is different on twins, is given as MEMBER, and shown so. Members come in the
    /// order of their ids, so parts of the output are compared regardless of their order.
    member: bool,
}

/// Where the commands of a story go, besides the server.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub server: &'a Server,
    /// Files of the test, as DIR.
    pub directory: &'a Path,
}

impl Case {
    pub fn parse(line: &'static str) -> Self {
        let (command, stdin) = line.split_once(" <<<").unwrap_or((line, ""));
        let mut case = Self {
            line,
            args: Vec::new(),
            environment: Vec::new(),
            stdin: stdin.trim_start().replace('~', "\n"),
            same_server: false,
            lines: None,
            masks: Vec::new(),
            without_endpoints: false,
            range: false,
            usage: false,
            last_line: false,
            member: false,
        };
        for word in command.split_whitespace() {
            match word.strip_prefix('@') {
                Some("same") => case.same_server = true,
                Some("usage") => case.usage = true,
                Some("last") => case.last_line = true,
                Some("member") => case.member = true,
                Some("nowhere") => case.without_endpoints = true,
                Some("range") => case.range = true,
                Some(directive) => match directive.split_once('=') {
                    Some(("lines", count)) => case.lines = Some(count.parse().unwrap()),
                    Some(("mask", what)) => case.masks.push(what),
                    Some(("env", setting)) => {
                        let (name, value) = setting.split_once('=').unwrap();
                        case.environment.push((name.into(), value.into()));
                    }
                    _ => panic!("unknown directive @{directive}"),
                },
                None if word == "''" => case.args.push(String::new()),
                None => case.args.push(word.replace('_', " ").replace("\\ ", "_")),
            }
        }
        case
    }

    pub async fn run(&self, program: &Path, place: Place<'_>) -> Output {
        let known = if self.member { place.server.added_member().await } else { None };
        let output = self.output(self.printed(program, place, known), place);
        if !self.member {
            return output;
        }
        let id = if known.is_some() { known } else { place.server.added_member().await };
        output.with_member(id.expect("a member that has not started"))
    }

    fn printed(
        &self,
        program: &Path,
        Place { server, directory }: Place<'_>,
        member: Option<u64>,
    ) -> Printed {
        let mut command = Command::new(program);
        let port = server.port.to_string();
        let member = member.map(|id| format!("{id:x}")).unwrap_or_default();
        let directory = directory.to_str().unwrap();
        command.args(
            self.args
                .iter()
                .map(|word| word.replace("PORT", &port).replace("DIR", directory).replace("MEMBER", &member)),
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", "/usr/bin:/bin");
        if !self.without_endpoints {
            command.env("ETCDCTL_ENDPOINTS", server.endpoint());
        }
        command.envs(self.environment.iter().cloned());
        if self.range && program == Path::new(OURS) {
            command.arg("--range");
        }
        let mut child = command.spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut stdin = child.stdin.take().unwrap();
        let child = Mutex::new(child);
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let kill = || child.lock().unwrap().kill().unwrap();
            scope.spawn(move || {
                if waiting.recv_timeout(LONGEST_RUN) == Err(RecvTimeoutError::Timeout) {
                    kill();
                }
            });
            let errors = scope.spawn(move || {
                let mut bytes = Vec::new();
                stderr.read_to_end(&mut bytes).unwrap();
                bytes
            });
            // A command that ends without reading its input closes the pipe.
            let _ = stdin.write_all(self.stdin.as_bytes());
            let mut printed = Vec::new();
            match self.lines {
                None => {
                    drop(stdin);
                    stdout.read_to_end(&mut printed).unwrap();
                }
                Some(count) => {
                    let mut reader = BufReader::new(stdout);
                    for _ in 0..count {
                        reader.read_until(b'\n', &mut printed).unwrap();
                    }
                    kill();
                }
            }
            let errors = errors.join().unwrap();
            let status = child.lock().unwrap().wait().unwrap();
            drop(done);
            (printed, errors, status.code())
        })
    }

    fn output(&self, (stdout, stderr, code): Printed, place: Place<'_>) -> Output {
        let port = place.server.port.to_string();
        let replaced = |bytes: &[u8]| {
            let mut text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
            text = text.replace(&port, "<PORT>");
            for mask in &self.masks {
                text = masked(&text, mask);
            }
            text
        };
        let stderr = replaced(&stderr);
        let error = match self.last_line {
            true => stderr.lines().last().unwrap_or_default().into(),
            false => {
                let (mut logged, said): (Vec<_>, Vec<_>) =
                    stderr.lines().filter_map(error_line).partition(|line| line.starts_with('{'));
                // The real one logs from two threads while a snapshot comes.
                logged.sort();
                logged.concat() + &said.concat()
            }
        };
        let mut stdout = replaced(&stdout);
        if self.usage
            && let Some(options) = stdout.find("\nOPTIONS:\n")
        {
            stdout.truncate(options);
        }
        Output { stdout, error, code }
    }
}

type Printed = (Vec<u8>, Vec<u8>, Option<i32>);

/// A line of standard error, with log lines cut to their level and message. The real one logs retries; we do not.
fn error_line(line: &str) -> Option<String> {
    // The real one asks `stty` to hide passwords, which complains where there is no terminal.
    let noise = [
        "\"msg\":\"retrying of unary invoker failed\"",
        "\"msg\":\"streamer failed to create ClientStream\"",
        "stty: 'standard input'",
    ];
    if noise.iter().any(|noise| line.contains(noise)) {
        return None;
    }
    let cut =
        line.split_once(",\"ts\":").and_then(|(level, rest)| Some((level, rest.split_once(",\"msg\":")?.1)));
    let Some((level, message)) = cut else { return Some(format!("{line}\n")) };
    let message = message.split(",\"stacktrace\":").next().unwrap_or_default();
    Some(format!("{level} {}\n", message.trim_end_matches('}')))
}

/// Blanks what cannot be equal: `took` (times), `remaining` (of a lease), `id` (chosen by a server), `size` (of a
/// database, which depends on how its writes fell together).
fn masked(text: &str, what: &str) -> String {
    let starts: &[&str] = match what {
        "took" => &["took = ", "\"took\":\"", "\"Took\" : "],
        "remaining" => &["remaining(", "\"ttl\":", "\"TTL\" : "],
        "size" => &["\"size\":\""],
        "id" => &["lease ", "\"ID\":", "\"ID\" : "],
        _ => panic!("unknown mask {what}"),
    };
    let mut out = text.to_owned();
    for start in starts {
        let Some(at) = out.find(start).map(|at| at + start.len()) else { continue };
        let end = out[at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '\u{c2}' && c != '\u{b5}');
        let end = end.map_or(out.len(), |length| at + length);
        out.replace_range(at..end, "*");
    }
    out
}

#[derive(Debug, PartialEq)]
pub struct Output {
    stdout: String,
    error: String,
    code: Option<i32>,
}

impl Output {
    fn with_member(mut self, id: u64) -> Self {
        // Short ones are padded in sentences.
        let shown = self.stdout.replace(&format!("{id:16x}"), "<MEMBER>");
        let shown = shown.replace(&format!("{id:x}"), "<MEMBER>").replace(&id.to_string(), "<MEMBER>");
        let mut parts: Vec<&str> = shown.split([',', '"', '{', '}', '[', ']', '\n']).collect();
        parts.sort_unstable();
        self.stdout = parts.join("|");
        self
    }
}
