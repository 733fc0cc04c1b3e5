//! The words that complete a command line, from the tree of commands.

use completion::Words;

use super::command::{Command, HELP_FLAG};

/// Of the whole tree, root first.
pub fn words(root: &Command) -> Vec<Words> {
    fn visit(command: &Command, name: &str, inherited: &[String], all: &mut Vec<Words>) {
        let spelt =
            |flag: &super::Flag| format!("--{}{}", flag.name, if flag.needs_value() { "=" } else { "" });
        let mut persistent = inherited.to_vec();
        persistent.extend(command.persistent.iter().map(spelt));
        let mut follow: Vec<_> = command.shown().map(|child| child.name().to_owned()).collect();
        follow.extend(command.flags.iter().chain([&HELP_FLAG]).map(spelt));
        follow.extend_from_slice(&persistent);
        all.push(Words { command: name.into(), follow });
        for child in command.shown() {
            visit(child, format!("{name} {}", child.name()).trim_start(), &persistent, all);
        }
    }
    let mut all = Vec::new();
    visit(root, "", &[], &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ROOT;

    #[test]
    fn words_follow_their_command() {
        let all = words(&ROOT);
        let words = |name: &str| &all.iter().find(|it| it.command == name).unwrap().follow;
        assert!(words("").contains(&"snapshot".to_owned()) && words("").contains(&"--write-out=".to_owned()));
        assert!(words("snapshot restore").contains(&"--skip-hash-check".to_owned()));
        assert!(!words("snapshot status").contains(&"--skip-hash-check".to_owned()));
    }
}
