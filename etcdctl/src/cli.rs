//! The command line as cobra and pflag read it: flags anywhere among the words, `--flag=value`, `-wjson`, unique
//! prefixes of command names, help on every command. `flags` parses, `command` finds and runs, `help` and
//! `completion` describe the tree, `globals` holds the flags and the environment every command shares,
//! `security` what they say of TLS and users, `prompt` asks for passwords.

pub mod command;
pub mod completion;
pub mod flags;
pub mod globals;
pub mod help;
pub mod prompt;
pub mod security;

pub use command::{Command, Invocation, run};
pub use flags::{Flag, Flags};
