//! `watch`: prints events as they come, runs a command for each where one follows `--`, and with `-i` takes further
//! watches from standard input. The key may come from `ETCDCTL_WATCH_KEY` and `ETCDCTL_WATCH_RANGE_END`.

use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use super::range_options::Keys;
use super::{program, words};
use crate::cli::flags::{Positional, Word};
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Flags, Invocation};
use crate::client::watch::{Update, Watcher, cancellation, is_progress};
use crate::exit::{ERROR, Exit, INTERRUPTED, INVALID_INPUT, Outcome};
use crate::go::quote::quote;
use crate::printers::Printer;

pub static COMMAND: Command = Command {
    usage: "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    short: "Watches events stream on keys or prefixes",
    flags: &FLAGS,
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

static FLAGS: [Flag; 5] = [
    Flag::bool("interactive", "Interactive mode").short('i'),
    Flag::bool("prefix", "Watch on a prefix if prefix is set"),
    Flag::int64("rev", "Revision to start watching"),
    Flag::bool("prev-kv", "get the previous key-value pair before the event happens"),
    Flag::bool("progress-notify", "get periodic watch progress notification from server"),
];

/// One watch as asked for, by the command line or by a line of input.
#[derive(Debug, PartialEq)]
struct Plan {
    request: WatchCreateRequest,
    /// The program to run for each event, and its arguments.
    exec: Vec<Word>,
}

/// The keys named by the environment: none, a key, or a key and a range end.
struct EnvironmentKeys(Vec<Word>);

async fn run(mut invocation: Invocation) -> Outcome {
    let keys = EnvironmentKeys::read()?;
    if invocation.flags.bool("interactive") {
        return interact(&mut invocation.flags, &keys).await;
    }
    let session = Session::new(&mut invocation.flags).await?;
    let plan = Plan::new(&invocation.args, &invocation.flags, &keys).map_err(Exit::bad_args)?;
    let printer = session.printer;
    let client = Rc::new(session.client);
    LocalSet::new()
        .run_until(async {
            let updates = Watcher::start(client).create(plan.request).await;
            show(printer.as_ref(), updates, &plan.exec).await
        })
        .await?;
    Err(Exit::new(INTERRUPTED, "watch is canceled by the server"))
}

impl EnvironmentKeys {
    fn read() -> Result<Self, Exit> {
        let read = |name| std::env::var_os(name).unwrap_or_default().into_vec();
        Self::new(read("ETCDCTL_WATCH_KEY"), read("ETCDCTL_WATCH_RANGE_END"))
    }

    fn new(key: Word, range_end: Word) -> Result<Self, Exit> {
        if key.is_empty() && !range_end.is_empty() {
            let range_end = quote(&range_end);
            let message = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={range_end}");
            return Err(Exit::bad_args(message));
        }
        Ok(Self([key, range_end].into_iter().filter(|word| !word.is_empty()).collect()))
    }
}

impl Plan {
    fn new(args: &Positional, flags: &Flags, environment: &EnvironmentKeys) -> Result<Self, String> {
        let (own, exec) = args.words.split_at(args.dash_at.unwrap_or(args.words.len()));
        if args.dash_at.is_some() && exec.is_empty() {
            return Err("bad number of arguments (found separator --, but no commands)".into());
        }
        let words = match (&environment.0[..], own) {
            ([], []) => return Err("bad number of arguments".into()),
            ([], own) => own,
            (named, []) => named,
            _ => return Err("bad number of arguments (found conflicting environment key)".into()),
        };
        let prefix = flags.bool("prefix");
        let keys = if prefix {
            if words.len() == 2 {
                return Err("`range_end` and `--prefix` are mutually exclusive".into());
            }
            Keys::with_prefix(&words[0])
        } else {
            // The wire has no empty key: it is the first one there can be.
            let key = if words[0].is_empty() { vec![0] } else { words[0].clone() };
            // A third word makes all but the first unheard.
            let range_end = if words.len() == 2 { words[1].clone() } else { Vec::new() };
            Keys { key: key.into(), range_end: range_end.into() }
        };
        let request = WatchCreateRequest {
            key: keys.key,
            range_end: keys.range_end,
            start_revision: flags.int64("rev"),
            prev_kv: flags.bool("prev-kv"),
            progress_notify: flags.bool("progress-notify"),
            ..Default::default()
        };
        Ok(Self { request, exec: exec.to_vec() })
    }
}

/// A line of interactive input.
#[derive(Debug, PartialEq)]
enum Line {
    Watch(Plan),
    Progress,
    /// Nothing to do but tell why.
    Rejected(String),
}

fn parse_line(line: &[u8], environment: &EnvironmentKeys) -> Result<Line, Exit> {
    let shown = String::from_utf8_lossy(line);
    let words = words::split(line)?;
    let Some((command, rest)) = words.split_first() else {
        return Ok(Line::Rejected(format!("Invalid command: {shown} (watch and progress supported)")));
    };
    match command.as_slice() {
        b"progress" => Ok(Line::Progress),
        b"watch" if rest.is_empty() && environment.0.is_empty() => {
            Ok(Line::Rejected(format!("Invalid command {shown} (command type or key is not provided)")))
        }
        b"watch" => {
            let mut flags = Flags::new(&FLAGS, []);
            let args = flags.parse(rest).map_err(Exit::bad_args)?;
            match Plan::new(&args, &flags, environment) {
                Ok(plan) => Ok(Line::Watch(plan)),
                Err(why) if why.starts_with("bad number") => Err(Exit::bad_args(why)),
                Err(why) => Ok(Line::Rejected(format!("Invalid command {shown} ({why})"))),
            }
        }
        _ => Ok(Line::Rejected(format!("Invalid command {shown} (only support watch)"))),
    }
}

/// Serves lines until standard input ends, which is an error.
async fn interact(flags: &mut Flags, environment: &EnvironmentKeys) -> Outcome {
    let session = Session::new(flags).await?;
    let printer: Rc<dyn Printer> = session.printer.into();
    let client = Rc::new(session.client);
    let mut lines = stdin_lines();
    let serve = async {
        let watcher = Watcher::start(client);
        let mut shows: JoinSet<Outcome> = JoinSet::new();
        loop {
            let line = tokio::select! {
                line = lines.recv() => line.ok_or_else(|| {
                    Exit::new(INVALID_INPUT, "error reading watch request line: EOF")
                })?,
                Some(ended) = shows.join_next() => {
                    ended.unwrap_or(Ok(()))?;
                    continue;
                }
            };
            match parse_line(&line, environment)? {
                Line::Rejected(why) => writeln!(io::stderr(), "{why}")?,
                Line::Progress => watcher.request_progress().await,
                Line::Watch(plan) => {
                    let updates = watcher.create(plan.request).await;
                    let printer = Rc::clone(&printer);
                    shows.spawn_local(async move { show(printer.as_ref(), updates, &plan.exec).await });
                }
            }
        }
    };
    LocalSet::new().run_until(serve).await
}

/// Whole lines of standard input without their newlines, read by a thread since a terminal can block for ever.
fn stdin_lines() -> mpsc::Receiver<Word> {
    let (lines, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            if read.is_err() || line.pop() != Some(b'\n') || lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Prints what a watch yields, until it ends.
async fn show(printer: &dyn Printer, mut updates: mpsc::Receiver<Update>, exec: &[Word]) -> Outcome {
    while let Some(update) = updates.recv().await {
        let (response, error) = match update {
            Update::Response(response) => {
                let error =
                    (response.canceled || response.compact_revision != 0).then(|| cancellation(&response));
                (response, error)
            }
            Update::Failed(error) => (WatchResponse { canceled: true, ..Default::default() }, Some(error)),
        };
        if let Some(error) = error {
            writeln!(io::stderr(), "watch was canceled ({error})")?;
        }
        let mut out = Vec::new();
        if is_progress(&response) {
            let revision = response.header.map_or(0, |header| header.revision);
            writeln!(out, "progress notify: {revision}")?;
        }
        let printed = printer.watch(&mut out, &response);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&out)?;
        // Not every format ends with a newline.
        stdout.flush()?;
        drop(stdout);
        printed?;
        if !exec.is_empty() {
            run_for_events(&response, exec).await?;
        }
    }
    Ok(())
}

/// Runs the program once per event, which it finds in its environment; keys and values are quoted there.
async fn run_for_events(response: &WatchResponse, exec: &[Word]) -> Outcome {
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    for event in &response.events {
        let kv = event.kv.clone().unwrap_or_default();
        let event_type = EventType::try_from(event.r#type).map_or("", |known| known.as_str_name());
        let variables = [
            ("ETCD_WATCH_REVISION", revision.to_string().into()),
            ("ETCD_WATCH_EVENT_TYPE", quote(event_type.as_bytes()).into()),
            ("ETCD_WATCH_KEY", quote(&kv.key).into()),
            ("ETCD_WATCH_VALUE", quote(&kv.value).into()),
        ];
        let Err(failure) = program::run(exec, &variables).await else { continue };
        let words: Vec<_> = exec.iter().map(|word| quote(word)).collect();
        writeln!(io::stderr(), "command [{}] error ({})", words.join(" "), failure.reason)?;
        return Err(Exit::silent(ERROR));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(key: &str, range_end: &str) -> EnvironmentKeys {
        EnvironmentKeys::new(key.into(), range_end.into()).unwrap()
    }

    fn line(text: &str, environment: &EnvironmentKeys) -> Result<Line, Exit> {
        parse_line(text.as_bytes(), environment)
    }

    fn plan(text: &str, environment: &EnvironmentKeys) -> Plan {
        match line(text, environment) {
            Ok(Line::Watch(plan)) => plan,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines() {
        let none = environment("", "");
        let watch = plan("watch --rev 5 'a b' --prev-kv c -- echo \"x y\" --prefix", &none);
        assert_eq!((&watch.request.key[..], &watch.request.range_end[..]), (&b"a b"[..], &b"c"[..]));
        assert!(watch.request.prev_kv && watch.request.start_revision == 5);
        assert_eq!(watch.exec, [&b"echo"[..], b"x y", b"--prefix"]);
        assert_eq!(plan("watch a --prefix", &none).request.range_end, "b");
        assert_eq!(plan("watch ''", &none).request.key, "\0");
        assert_eq!(plan("watch a b c", &none).request.range_end, "");
        assert_eq!(line("progress", &none), Ok(Line::Progress));
    }

    #[test]
    fn rejected_and_fatal_lines() {
        let none = environment("", "");
        for (text, why) in [
            ("foo", "Invalid command foo (only support watch)"),
            ("", "Invalid command:  (watch and progress supported)"),
            ("watch", "Invalid command watch (command type or key is not provided)"),
            (
                "watch a b --prefix",
                "Invalid command watch a b --prefix (`range_end` and `--prefix` are mutually exclusive)",
            ),
        ] {
            assert_eq!(line(text, &none), Ok(Line::Rejected(why.into())));
        }
        for (text, why) in [
            ("watch a --nosuch", "unknown flag: --nosuch"),
            ("watch a --", "bad number of arguments (found separator --, but no commands)"),
            ("watch --rev 1", "bad number of arguments"),
        ] {
            assert_eq!(line(text, &none), Err(Exit::bad_args(why)));
        }
    }

    #[test]
    fn keys_from_the_environment() {
        let named = environment("a", "z");
        let watch = plan("watch -- echo hi", &named);
        assert_eq!((&watch.request.key[..], &watch.request.range_end[..]), (&b"a"[..], &b"z"[..]));
        assert_eq!(watch.exec.len(), 2);
        let conflict = "bad number of arguments (found conflicting environment key)";
        assert_eq!(line("watch b", &named), Err(Exit::bad_args(conflict)));
        assert!(EnvironmentKeys::new(vec![], b"x".into()).is_err_and(|exit| {
            exit.message.unwrap() == "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"x\""
        }));
    }
}
