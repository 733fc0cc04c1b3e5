//! The tree of commands, and how a command line picks one of them: cobra's rules. A word picks a child by name or
//! unique prefix; a command that cannot run shows its usage; only the root refuses words it does not know.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use super::{
    flags::{Flag, Flags},
    usage::usage,
};
use crate::exit::{Exit, Outcome};

pub struct Command {
    /// The name, then what follows it in the usage line.
    pub usage: &'static str,
    pub short: &'static str,
    /// Flags of this command alone.
    pub flags: &'static [Flag],
    /// Flags of this command and all below it.
    pub persistent: &'static [Flag],
    /// In the order of their names.
    pub children: &'static [&'static Command],
    pub run: Option<fn(&Invocation) -> Outcome>,
    /// The number of arguments that cobra asks for; `None` leaves it to the command.
    pub args: Option<usize>,
    /// What to use instead of a command that is still understood, but shown no more.
    pub deprecated: Option<&'static str>,
}

/// One command about to run.
pub struct Invocation {
    pub flags: Flags,
    pub args: Vec<OsString>,
}

impl Invocation {
    /// The only argument, or an error that names the command.
    pub fn only(&self, command: &str) -> Outcome<PathBuf> {
        match self.args.as_slice() {
            [argument] => Ok(argument.into()),
            _ => Err(Exit::bad_args(format!("{command} requires exactly one argument"))),
        }
    }
}

pub static HELP_FLAG: Flag = Flag::bool("help", "").short('h');

impl Command {
    /// A command that does nothing but hold others; the fields of one that runs start from here too.
    pub const EMPTY: Command = Command {
        usage: "",
        short: "",
        flags: &[],
        persistent: &[],
        children: &[],
        run: None,
        args: None,
        deprecated: None,
    };

    pub fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    /// The children that pages and completion show.
    pub fn shown(&self) -> impl Iterator<Item = &'static Command> {
        self.children.iter().filter(|child| child.deprecated.is_none()).copied()
    }

    /// The child of that name, or the only one whose name starts so.
    fn child(&self, word: &OsStr) -> Option<&'static Command> {
        let word = word.as_bytes();
        if let Some(exact) = self.children.iter().find(|child| child.name().as_bytes() == word) {
            return Some(exact);
        }
        let mut matching = self.children.iter().filter(|child| child.name().as_bytes().starts_with(word));
        matching.next().filter(|_| !word.is_empty() && matching.next().is_none()).copied()
    }
}

/// All flags of the command at the end of `path`.
fn declared(path: &[&'static Command]) -> Vec<&'static Flag> {
    let own = path.last().map_or(&[][..], |command| command.flags);
    let persistent = path.iter().flat_map(|command| command.persistent);
    own.iter().chain(persistent).chain([&HELP_FLAG]).collect()
}

/// The command that `words` name, and the words without its name.
pub fn find(root: &'static Command, words: &[OsString]) -> (Vec<&'static Command>, Vec<OsString>) {
    let (mut path, mut words) = (vec![root], words.to_vec());
    while let Some(at) = first_plain(&path, &words)
        && let Some(child) = path[path.len() - 1].child(&words[at])
    {
        words.remove(at);
        path.push(child);
    }
    (path, words)
}

/// Where the first word is that is neither a flag nor its value. A flag unknown at this level is taken to have a value.
fn first_plain(path: &[&'static Command], words: &[OsString]) -> Option<usize> {
    let declared = declared(path);
    let mut at = 0;
    while at < words.len() {
        let stands_alone =
            |is_it: &dyn Fn(&Flag) -> bool| declared.iter().any(|flag| is_it(flag) && !flag.needs_value());
        let takes_next = match words[at].as_bytes() {
            b"--" => return None,
            [b'-', b'-', long @ ..] => {
                !long.contains(&b'=') && !stands_alone(&|flag| flag.name.as_bytes() == long)
            }
            [b'-', letter] => !stands_alone(&|flag| flag.short == Some(char::from(*letter))),
            [b'-', ..] => false,
            _ => return Some(at),
        };
        at += 1 + usize::from(takes_next);
    }
    None
}

/// Runs the command that `words` (without the program's name) ask for.
pub fn run(root: &'static Command, words: &[OsString]) -> Outcome {
    let (path, words) = find(root, words);
    if let [root] = path[..]
        && let Some(at) = first_plain(&path, &words)
    {
        return Err(unknown_command(root, &words[at].to_string_lossy()));
    }
    let command = path[path.len() - 1];
    if let Some(instead) = command.deprecated {
        writeln!(io::stderr(), "Command \"{}\" is deprecated, {instead}", command.name())?;
    }
    let mut flags = Flags::new(declared(&path));
    let refused = |message: String| -> Exit {
        // The error that follows says the same again, as etcdutl's does.
        let _ = writeln!(io::stderr(), "Error: {message}\n{}", usage(&path));
        Exit::failed(message)
    };
    let args = flags.parse(&words).map_err(refused)?;
    let Some(handler) = command.run.filter(|_| !flags.bool("help")) else {
        return Ok(io::stdout().write_all(usage(&path).as_bytes())?);
    };
    if let Some(wanted) = command.args.filter(|wanted| *wanted != args.len()) {
        return Err(refused(format!("accepts {wanted} arg(s), received {}", args.len())));
    }
    if let Some(missing) = flags.missing() {
        return Err(refused(missing));
    }
    handler(&Invocation { flags, args })
}

/// cobra writes the error with a hint; the caller then repeats the error.
fn unknown_command(root: &Command, word: &str) -> Exit {
    let mut message = format!("unknown command {word:?} for \"{}\"", root.name());
    let close: Vec<_> = root.shown().map(Command::name).filter(|name| resembles(name, word)).collect();
    if !close.is_empty() {
        message.push_str("\n\nDid you mean this?\n");
        close.iter().for_each(|name| message.push_str(&format!("\t{name}\n")));
    }
    // The error that follows says the same again, as etcdutl's does.
    let _ = writeln!(io::stderr(), "Error: {message}\nRun '{} --help' for usage.", root.name());
    Exit::failed(message)
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

    fn path_of(line: &str) -> (String, usize) {
        let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        let (path, rest) = find(&ROOT, &words);
        (path.iter().map(|command| command.name()).collect::<Vec<_>>().join(" "), rest.len())
    }

    #[test]
    fn finds_commands_among_flags() {
        assert_eq!(path_of("snapshot -w json status f"), ("etcdutl snapshot status".into(), 3));
        assert_eq!(path_of("snap stat f"), ("etcdutl snapshot status".into(), 1));
        assert_eq!(path_of("-h snapshot"), ("etcdutl snapshot".into(), 1));
        assert_eq!(path_of("snapshot nosuch"), ("etcdutl snapshot".into(), 1));
        assert_eq!(path_of("-- version"), ("etcdutl".into(), 2));
    }

    #[test]
    fn unknown_commands_are_told_what_they_resemble() {
        let message = |word: &str| unknown_command(&ROOT, word).message.unwrap();
        let error = "unknown command \"versoin\" for \"etcdutl\"";
        assert_eq!(message("versoin"), format!("{error}\n\nDid you mean this?\n\tversion\n"));
        assert_eq!(message("nosuch"), "unknown command \"nosuch\" for \"etcdutl\"");
    }

    #[test]
    fn a_deprecated_command_refers_to_another() {
        let exit = run(&ROOT, &["snapshot", "save", "x"].map(OsString::from)).unwrap_err();
        let message = "In order to download snapshot use: `etcdctl snapshot save ...`";
        assert_eq!(exit, Exit::bad_args(message));
        let (path, _) = find(&ROOT, &["snapshot".into()]);
        assert!(!usage(&path).contains("save"));
    }

    #[test]
    fn every_command_runs_or_holds_others_and_has_the_flags_it_reads() {
        fn check(command: &'static Command) {
            assert_eq!(command.run.is_some(), command.children.is_empty(), "{}", command.name());
            assert!(command.children.is_sorted_by_key(|child| child.name()));
            command.children.iter().for_each(|child| check(child));
        }
        check(&ROOT);
    }
}
