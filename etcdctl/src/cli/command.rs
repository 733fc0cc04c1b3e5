//! The tree of commands, and how a command line picks one of them: cobra's rules. A word picks a child by name or
//! unique prefix; a command that cannot run shows its help; only the root refuses words it does not know.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;

use super::flags::{Flag, Flags, Positional, Word};
use super::{globals, help};
use crate::exit::{ERROR, Exit, Outcome};

pub type Handler = fn(Invocation) -> Pin<Box<dyn Future<Output = Outcome>>>;

pub struct Command {
    /// The name, then what follows it in the usage line.
    pub usage: &'static str,
    pub short: &'static str,
    pub long: &'static str,
    /// Flags of this command alone.
    pub flags: &'static [Flag],
    /// Flags of this command and all below it.
    pub persistent: &'static [Flag],
    /// In the order in which suggestions name them; help sorts them.
    pub children: &'static [&'static Command],
    pub run: Option<Handler>,
}

/// One command about to run.
pub struct Invocation {
    pub path: Vec<&'static Command>,
    pub flags: Flags,
    pub args: Positional,
}

pub static HELP_FLAG: Flag = Flag::bool("help", "").short('h');

impl Command {
    /// A command that does nothing but hold others; the fields of one that runs start from here too.
    pub const EMPTY: Self =
        Self { usage: "", short: "", long: "", flags: &[], persistent: &[], children: &[], run: None };

    pub fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// The child of that name, or the only one whose name starts so.
    fn child(&self, word: &[u8]) -> Option<&'static Command> {
        if let Some(exact) = self.children.iter().find(|child| child.name().as_bytes() == word) {
            return Some(exact);
        }
        let mut matching = self.children.iter().filter(|child| child.name().as_bytes().starts_with(word));
        matching.next().filter(|_| matching.next().is_none()).copied()
    }
}

impl Invocation {
    /// The command's own flags and those inherited, ready for `args` to be parsed.
    fn declared(path: &[&'static Command]) -> impl Iterator<Item = &'static Flag> {
        let own = path.last().map_or(&[][..], |command| command.flags);
        let persistent: Vec<_> = path.iter().map(|command| command.persistent).collect();
        own.iter().chain(persistent.into_iter().flatten())
    }
}

/// Finds the command `words` name. The second value is what remains for its flags and arguments.
pub fn find(root: &'static Command, words: &[Word]) -> (Vec<&'static Command>, Vec<Word>) {
    let mut path = vec![root];
    let mut words = words.to_vec();
    loop {
        let command = path[path.len() - 1];
        let Some(next) = without_flags(&path, &words).into_iter().next() else { break };
        let Some(child) = command.child(&next) else { break };
        if let Some(at) = words.iter().position(|word| *word == next) {
            words.remove(at);
        }
        path.push(child);
    }
    (path, words)
}

/// The words that are neither flags nor their values. A flag unknown at this level is taken to have a value.
fn without_flags(path: &[&'static Command], words: &[Word]) -> Vec<Word> {
    let declared: Vec<&Flag> = Invocation::declared(path).collect();
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let takes_next = match word.as_slice() {
            b"--" => break,
            [b'-', b'-', long @ ..] => {
                !long.contains(&b'=')
                    && !declared.iter().any(|flag| flag.name.as_bytes() == long && !flag.needs_value())
            }
            [b'-', letter] => {
                let letter = char::from(*letter);
                letter != '='
                    && !declared.iter().any(|flag| flag.short == Some(letter) && !flag.needs_value())
            }
            [b'-', ..] | [] => false,
            _ => {
                plain.push(word.clone());
                false
            }
        };
        if takes_next && words.next().is_none() {
            break;
        }
    }
    plain
}

/// Parses flags of the command at the end of `path`, `--help` included when it is a command of its own.
pub fn parse(path: Vec<&'static Command>, words: &[Word], with_help: bool) -> Result<Invocation, String> {
    let help = with_help.then_some(&HELP_FLAG);
    let (command, parents) = (path[path.len() - 1], &path[..path.len() - 1]);
    let own = command.flags.iter().chain(command.persistent).chain(help);
    let mut flags = Flags::new(own, parents.iter().flat_map(|parent| parent.persistent));
    let args = flags.parse(words)?;
    Ok(Invocation { path, flags, args })
}

/// Runs the command that `words` (without the program's name) ask for.
pub fn run(root: &'static Command, words: &[Word]) -> Outcome {
    globals::refuse_other_apis()?;
    let (path, words) = find(root, words);
    if let [root] = path[..]
        && let Some(unknown) = without_flags(&path, &words).into_iter().next()
    {
        return Err(unknown_command(root, &String::from_utf8_lossy(&unknown)));
    }
    let invocation = match parse(path.clone(), &words, true) {
        Ok(invocation) => invocation,
        Err(message) => {
            std::io::stdout().write_all(help::usage(&path).as_bytes())?;
            write!(std::io::stderr(), "Error: {message}\n\n")?;
            return Err(Exit::new(ERROR, message));
        }
    };
    let Some(handler) = path[path.len() - 1].run.filter(|_| !invocation.flags.bool("help")) else {
        return Ok(std::io::stdout().write_all(help::usage(&path).as_bytes())?);
    };
    globals::runtime()?.block_on(handler(invocation))
}

/// cobra writes the error with a hint; the caller then repeats the error.
fn unknown_command(root: &Command, word: &str) -> Exit {
    let mut message = format!("unknown command \"{word}\" for \"{}\"", root.name());
    let close: Vec<_> =
        root.children.iter().map(|child| child.name()).filter(|name| resembles(name, word)).collect();
    if !close.is_empty() {
        message.push_str("\n\nDid you mean this?\n");
        close.iter().for_each(|name| message.push_str(&format!("\t{name}\n")));
    }
    let _ = writeln!(std::io::stderr(), "Error: {message}\nRun '{} --help' for usage.", root.name());
    Exit::new(ERROR, message)
}

/// Two edits apart at most, or a longer form of what was typed.
fn resembles(name: &str, typed: &str) -> bool {
    let typed = typed.to_lowercase();
    name.starts_with(&typed)
        || typed.len() <= name.len() + 2 && distance(name.as_bytes(), typed.as_bytes()) <= 2
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ROOT;

    fn words(line: &str) -> Vec<Word> {
        line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    fn path_of(line: &str) -> (String, usize) {
        let (path, rest) = find(&ROOT, &words(line));
        (path.iter().map(|command| command.name()).collect::<Vec<_>>().join(" "), rest.len())
    }

    #[test]
    fn finds_commands_among_flags() {
        assert_eq!(path_of("--endpoints a,b get k -w json"), ("etcdctl get".into(), 5));
        assert_eq!(path_of("--debug lease -wjson grant 5"), ("etcdctl lease grant".into(), 3));
        assert_eq!(path_of("endpoint --cluster health"), ("etcdctl endpoint health".into(), 1));
        assert_eq!(path_of("pu a b"), ("etcdctl put".into(), 2));
        assert_eq!(path_of("lease nosuch"), ("etcdctl lease".into(), 1));
        // An unknown flag swallows the word after it.
        assert_eq!(path_of("--nosuch get al"), ("etcdctl alarm".into(), 2));
        assert_eq!(path_of("-- get"), ("etcdctl".into(), 2));
    }

    #[test]
    fn every_command_runs_or_holds_others_and_every_default_parses() {
        fn check(command: &'static Command, mut path: Vec<&'static Command>) {
            path.push(command);
            parse(path.clone(), &[], true).unwrap();
            assert_eq!(command.run.is_some(), command.children.is_empty(), "{}", command.name());
            command.children.iter().for_each(|child| check(child, path.clone()));
        }
        check(&ROOT, Vec::new());
    }

    #[test]
    fn suggestions() {
        assert!(resembles("compaction", "completion") && resembles("get", "gte") && resembles("alarm", "A"));
        assert!(!resembles("get", "nosuch") && !resembles("put", &"x".repeat(1000)));
    }
}
