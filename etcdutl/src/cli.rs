//! The command line as cobra and pflag read it: flags anywhere among the words, `--flag=value`, `-wjson`, unique
//! prefixes of command names, help on every command. `flags` parses, `command` finds and runs, `usage` and
//! `completion` describe the tree.

pub mod command;
pub mod completion;
pub mod flags;
pub mod usage;

pub use command::{Command, Invocation, run};
pub use flags::Flag;
