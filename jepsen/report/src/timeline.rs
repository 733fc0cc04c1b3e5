//! One failing history as a page: lanes of clients and members over time, faults across, the impossible operation in
//! the middle, and all of it as tables below.
//!
//! | module | owns |
//! |---|---|
//! | `window` | which operations are shown |
//! | `walk` | the order that revisions claim, and the model's state along it |
//! | `words` | requests and answers in words |
//! | `table` | rows within a budget of bytes |
//! | `view.js`, `view.css` | the drawing, made in the reader's browser from the tables |
//!
//! The page holds every datum once, in its tables; the drawing reads them, so without JavaScript nothing is missing but
//! the picture. A page has at most `MAX_BYTES`, whatever the history: each table has a budget, and says how many rows
//! were left out. Attributes of a row of operations, for the drawing:
//!
//! | attribute | what |
//! |---|---|
//! | `data-c`, `data-m` | client, member |
//! | `data-f`, `data-t` | call and return in nanoseconds; no `data-t` if the outcome is unknown |
//! | `data-o` | `ok`, `refused`, `unknown` |
//! | `data-k`, `data-w` | keys that it names, that it changed or may have changed: numbers, `from:to,…`, `to` not in it; no `data-w` if it changed nothing |
//! | `data-z` | there if any member may answer it alone |
//! | `data-r`, `data-p` | claimed revision, place in the claimed order |
//! | `data-s` | place among the suspects, from 0 |

mod table;
mod walk;
mod window;
mod words;

use std::fmt::Write as _;

use oracle::history::{History, NEVER_NS, OpId, Outcome, Stream, request, watch::WatchResponse};

use crate::{
    figure::{brief, clock, count, counted},
    html::{document, escape},
};
use table::{Rows, fit};
use walk::{Walk, walk};
use window::{Why, bounds, centre, choose, claimed, spans, written};
use words::Words;
pub use words::spell;

/// No page is larger.
pub const MAX_BYTES: usize = 5_000_000;

/// Bytes of each table; together with the frame they stay below `MAX_BYTES`.
const OPERATION_BYTES: usize = 2_600_000;
const WATCH_BYTES: usize = 500_000;
const LOG_BYTES: usize = 500_000;
const LANE_BYTES: usize = 400_000;
const FAULT_BYTES: usize = 200_000;

/// Characters of a text in a row; suspects have more.
const ROW_CHARS: usize = 600;
const SUSPECT_CHARS: usize = 4_000;
/// Characters of texts of the caller.
const TEXT_CHARS: usize = 20_000;
const NAME_CHARS: usize = 300;

pub struct Timeline<'a> {
    pub title: String,
    /// What is wrong, as the checker says it; numbers of keys and values are spelled out.
    pub failure: String,
    /// The command that shows it again.
    pub replay_command: String,
    pub history: &'a History,
    /// The impossible operation first; empty if none is known.
    pub suspects: Vec<OpId>,
    pub faults: Vec<Band>,
    /// By the numbers that `oracle::history::Member`, bands and log lines have.
    pub members: Vec<Lane>,
    pub log: Vec<LogLine>,
}

/// A fault while it lasted. Times are those of the history, here and below; `NEVER_NS` is open.
pub struct Band {
    pub what: String,
    pub from_ns: u64,
    pub to_ns: u64,
    /// `None`: the whole cluster, or several members.
    pub member: Option<usize>,
}

/// A member through the run.
pub struct Lane {
    pub name: String,
    pub spans: Vec<Span>,
    /// When its commit index came to be what.
    pub commits: Vec<Commit>,
}

pub struct Span {
    pub from_ns: u64,
    pub to_ns: u64,
    pub role: Role,
    pub term: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    /// Also before the vote proper.
    Candidate,
    Leader,
    Learner,
    /// Not running.
    Down,
}

pub struct Commit {
    pub at_ns: u64,
    pub index: u64,
}

pub struct LogLine {
    pub at_ns: u64,
    /// `None`: the harness.
    pub member: Option<usize>,
    pub text: String,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::Learner => "learner",
            Role::Down => "down",
        }
    }
}

/// The page. Suspects that are not in the history are left out.
pub fn render(timeline: &Timeline) -> String {
    let history = timeline.history;
    let centre_ns = match history.operations.is_empty() {
        true => 0,
        false => history.operations[centre(history, &timeline.suspects)].called_ns,
    };
    let (operations, walk) = operations(timeline);
    let mut body = header(timeline, &operations, &walk);
    body += include_str!("timeline/view.html");
    section(
        &mut body,
        "Operations",
        "ops",
        "<th class=n>#<th>client<th>asked<th class=n>called, s<th class=n>took<th>request<th>answer\
         <th>the model, before it, in the order of revisions",
        &operations,
    );
    section(
        &mut body,
        "Watch responses",
        "watches",
        "<th>stream<th class=n>at, s<th>response",
        &watches(timeline, centre_ns),
    );
    section(
        &mut body,
        "Faults",
        "faults",
        "<th class=n>from, s<th class=n>to, s<th>member<th>fault",
        &faults(timeline, centre_ns),
    );
    section(
        &mut body,
        "Roles",
        "roles",
        "<th>member<th class=n>from, s<th class=n>to, s<th>role<th class=n>term",
        &roles(timeline, centre_ns),
    );
    section(
        &mut body,
        "Commit indexes",
        "commits",
        "<th>member<th class=n>at, s<th class=n>index",
        &commits(timeline, centre_ns),
    );
    section(&mut body, "Log", "log", "<th class=n>at, s<th>member<th>line", &log(timeline, centre_ns));
    let title = clip(&timeline.title, NAME_CHARS);
    document(&title, include_str!("timeline/view.css"), &body, include_str!("timeline/view.js"))
}

fn header(timeline: &Timeline, operations: &Rows, walk: &Walk) -> String {
    let total = timeline.history.operations.len();
    let mut header = format!(
        "<h1>{}</h1>\n<pre class=failure>{}</pre>\n<pre><span class=faint>$ </span>{}</pre>\n",
        text(&timeline.title, NAME_CHARS),
        text(&spell(timeline.history, &timeline.failure), TEXT_CHARS),
        text(&timeline.replay_command, TEXT_CHARS),
    );
    let _ = writeln!(
        header,
        "<p id=extent>Shown: {} of {}; {} left out.",
        count(operations.shown),
        counted(total, "operation"),
        count(total - operations.shown)
    );
    match timeline.suspects.iter().find(|op| (op.0 as usize) < total) {
        Some(op) => {
            let _ = writeln!(
                header,
                "In the middle: <a href=\"#op-{0}\">#{0}</a>, the first impossible operation, with the {1} calls before \
                 and after it, and others on the same keys.",
                op.0,
                window::REACH
            );
        }
        None => header += "The checker names no operation: shown is the end of the run.\n",
    }
    if let Some(op) = walk.first_contradiction {
        let _ = writeln!(
            header,
            "In the order that the revisions claim, the model first disagrees with <a href=\"#op-{0}\">#{0}</a>.",
            op.0
        );
    } else {
        header += "In the order that the revisions claim, the model agrees as far as it was followed: look at the real \
                   time between operations.\n";
    }
    if let Some(revision) = walk.lost_at {
        let _ = writeln!(
            header,
            "The model could be followed up to revision {}: what made revision {revision} is not known.",
            revision - 1
        );
    }
    header + "</p>\n"
}

fn section(body: &mut String, title: &str, id: &str, head: &str, rows: &Rows) {
    if rows.shown + rows.left_out == 0 {
        return;
    }
    let left_out = match rows.left_out {
        0 => String::new(),
        more => format!(" <span class=faint>{} shown, {} left out</span>", count(rows.shown), count(more)),
    };
    let _ = writeln!(
        body,
        "<h2>{title}{left_out}</h2>\n<table id={id}>\n<thead><tr>{head}</thead>\n<tbody>\n{}</tbody></table>",
        rows.html
    );
}

fn operations(timeline: &Timeline) -> (Rows, Walk) {
    let history = timeline.history;
    let chosen = choose(history, &timeline.suspects);
    let walk = walk(history, &chosen, Words { history, limit: NAME_CHARS });
    let shown: Vec<(OpId, Why)> = chosen.into_iter().collect();
    let middle = if shown.is_empty() { 0 } else { centre(history, &timeline.suspects) };
    let weight = |(op, why): &(OpId, Why)| match why {
        Why::Suspect(at) => (0, *at),
        Why::Related => (1, 0),
        Why::Near => (2, middle.abs_diff(op.0 as usize)),
    };
    let mut rows =
        fit(&shown, OPERATION_BYTES, weight, |(op, why)| operation_row(timeline, *op, *why, &walk));
    rows.left_out = history.operations.len() - rows.shown;
    (rows, walk)
}

fn operation_row(timeline: &Timeline, op: OpId, why: Why, walk: &Walk) -> String {
    let history = timeline.history;
    let operation = history.op(op);
    let (client, member) = (operation.client.0, operation.member.0);
    let limit = if matches!(why, Why::Suspect(_)) { SUSPECT_CHARS } else { ROW_CHARS };
    let words = Words { history, limit };
    let outcome = match &operation.outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Refused(_) => "refused",
        Outcome::Unknown(_) => "unknown",
    };
    let mut row = format!(
        "<tr id=op-{} class={outcome} data-c={client} data-m={member} data-f={} data-o={outcome}",
        op.0, operation.called_ns
    );
    let took = match operation.returned_ns {
        NEVER_NS => "open".to_owned(),
        at_ns => {
            let _ = write!(row, " data-t={at_ns}");
            brief(at_ns.saturating_sub(operation.called_ns))
        }
    };
    if let Some(written) = written(operation) {
        let _ = write!(row, " data-w=\"{}\"", numbers(&written));
    }
    if operation.is_serializable() {
        row += " data-z";
    }
    if let Some(revision) = claimed(operation) {
        let _ = write!(row, " data-r={revision}");
    }
    if let Why::Suspect(at) = why {
        let _ = write!(row, " data-s={at}");
    }
    let keys = spans(&operation.request);
    if !keys.is_empty() {
        let _ = write!(row, " data-k=\"{}\"", numbers(&keys));
    }
    let mut model = String::new();
    if let Some(placed) = walk.placed.get(&op) {
        let _ = write!(row, " data-p={}", placed.rank);
        if let Some(expected) = &placed.expected {
            let _ = write!(model, "<div class=expected>expected {}</div>", escape(expected));
        }
        for line in placed.before.iter().flatten() {
            let _ = write!(model, "<div>{}</div>", escape(line));
        }
    }
    let answered_by = match &operation.outcome {
        Outcome::Ok(answer) if answer.member != operation.member => {
            format!(" <span class=warn>from {}</span>", member_name(timeline, Some(answer.member.0 as usize)))
        }
        _ => String::new(),
    };
    let _ = writeln!(
        row,
        "><td class=n>{}<td>c{client}<td>{}<td class=n>{}<td class=n>{took}<td>{}<td>{}{answered_by}<td>{model}",
        op.0,
        member_name(timeline, Some(member as usize)),
        clock(operation.called_ns),
        escape(&words.request(&operation.request)),
        escape(&words.outcome(&operation.outcome)),
    );
    row
}

/// Spans of keys as `from:to,…`.
fn numbers(spans: &[request::Span]) -> String {
    let numbers = spans.iter().map(bounds).map(|(from, to)| format!("{from}:{to}"));
    numbers.collect::<Vec<_>>().join(",")
}

fn watches(timeline: &Timeline, centre_ns: u64) -> Rows {
    let history = timeline.history;
    let words = Words { history, limit: ROW_CHARS };
    let streams = history.streams.iter().enumerate();
    let responses: Vec<(usize, &Stream, &WatchResponse)> = streams
        .flat_map(|(at, stream)| stream.responses.iter().map(move |response| (at, stream, response)))
        .collect();
    let weight =
        |(_, _, response): &(usize, &Stream, &WatchResponse)| response.received_ns.abs_diff(centre_ns);
    fit(&responses, WATCH_BYTES, weight, |(at, stream, response)| {
        format!(
            "<tr data-l={at} data-f={}><td>c{} at {}<td class=n>{}<td>{}\n",
            response.received_ns,
            stream.client.0,
            member_name(timeline, Some(stream.member.0 as usize)),
            clock(response.received_ns),
            escape(&words.watched(response))
        )
    })
}

fn faults(timeline: &Timeline, centre_ns: u64) -> Rows {
    let weight = |band: &Band| away(band.from_ns, band.to_ns, centre_ns);
    fit(&timeline.faults, FAULT_BYTES, weight, |band| {
        let (to, until) = end(band.to_ns);
        let lane = band.member.map_or(String::new(), |member| format!(" data-l={member}"));
        let (from, member) = (band.from_ns, member_name(timeline, band.member));
        let what = text(&band.what, NAME_CHARS);
        format!(
            "<tr data-f={from}{to}{lane}><td class=n>{}<td class=n>{until}<td>{member}<td>{what}\n",
            clock(from)
        )
    })
}

fn roles(timeline: &Timeline, centre_ns: u64) -> Rows {
    let lanes = timeline.members.iter().enumerate();
    let spans: Vec<(usize, &Span)> =
        lanes.flat_map(|(at, lane)| lane.spans.iter().map(move |span| (at, span))).collect();
    let weight = |(_, span): &(usize, &Span)| away(span.from_ns, span.to_ns, centre_ns);
    fit(&spans, LANE_BYTES, weight, |(at, span)| {
        let (to, until) = end(span.to_ns);
        let (role, term) = (span.role.name(), span.term);
        format!(
            "<tr data-l={at} data-f={}{to} class={role} data-term={term}><td>{}<td class=n>{}<td class=n>{until}<td>{role}\
             <td class=n>{term}\n",
            span.from_ns,
            member_name(timeline, Some(*at)),
            clock(span.from_ns)
        )
    })
}

fn commits(timeline: &Timeline, centre_ns: u64) -> Rows {
    let lanes = timeline.members.iter().enumerate();
    let commits: Vec<(usize, &Commit)> =
        lanes.flat_map(|(at, lane)| lane.commits.iter().map(move |commit| (at, commit))).collect();
    let weight = |(_, commit): &(usize, &Commit)| commit.at_ns.abs_diff(centre_ns);
    fit(&commits, LANE_BYTES, weight, |(at, commit)| {
        format!(
            "<tr data-l={at} data-f={}><td>{}<td class=n>{}<td class=n>{}\n",
            commit.at_ns,
            member_name(timeline, Some(*at)),
            clock(commit.at_ns),
            commit.index
        )
    })
}

fn log(timeline: &Timeline, centre_ns: u64) -> Rows {
    fit(
        &timeline.log,
        LOG_BYTES,
        |line| line.at_ns.abs_diff(centre_ns),
        |line| {
            let lane = line.member.map_or(String::new(), |member| format!(" data-l={member}"));
            format!(
                "<tr data-f={}{lane}><td class=n>{}<td>{}<td>{}\n",
                line.at_ns,
                clock(line.at_ns),
                member_name(timeline, line.member),
                text(&line.text, ROW_CHARS)
            )
        },
    )
}

/// Of a member, escaped; `all` of none.
fn member_name(timeline: &Timeline, member: Option<usize>) -> String {
    let Some(number) = member else { return "all".to_owned() };
    match timeline.members.get(number) {
        Some(lane) => text(&lane.name, 40),
        None => format!("m{number}"),
    }
}

/// How far a span of time is from a moment.
fn away(from_ns: u64, to_ns: u64, at_ns: u64) -> u64 {
    from_ns.saturating_sub(at_ns).max(at_ns.saturating_sub(to_ns))
}

/// The attribute, and the words, for the end of a span.
fn end(to_ns: u64) -> (String, String) {
    match to_ns {
        NEVER_NS => (String::new(), "open".to_owned()),
        to_ns => (format!(" data-t={to_ns}"), clock(to_ns)),
    }
}

fn clip(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}… ({} bytes in all)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

fn text(text: &str, chars: usize) -> String {
    escape(&clip(text, chars))
}
