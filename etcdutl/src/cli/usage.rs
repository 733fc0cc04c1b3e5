//! The usage page of a command, as cobra and pflag lay it out.

use super::{
    command::{Command, HELP_FLAG},
    flags::{Flag, Kind},
};

/// What etcdutl calls itself; scripts compare it with the server's version.
pub const VERSION: &str = "3.5.1";
pub const API_VERSION: &str = "3.5";

const NAME_COLUMNS: usize = 11;

/// The page of the command at the end of `path`.
pub fn usage(path: &[&'static Command]) -> String {
    page(path, Some(&HELP_FLAG))
}

/// The same without `--help`, which cobra gives to a command only when it is found.
pub fn usage_without_help(path: &[&'static Command]) -> String {
    page(path, None)
}

fn page(path: &[&'static Command], help: Option<&'static Flag>) -> String {
    let Some((command, parents)) = path.split_last() else { return String::new() };
    let names = |until: usize| path[..until].iter().map(|it| it.name()).collect::<Vec<_>>().join(" ");
    let mut page = "Usage:\n".to_string();
    if command.run.is_some() {
        let flags = if command.deprecated.is_none() { " [flags]" } else { "" };
        page.push_str(&format!("  {} {}{flags}\n", names(parents.len()), command.usage));
    } else {
        page.push_str(&format!("  {} [command]\n\nAvailable Commands:\n", names(path.len())));
        for child in command.shown() {
            page.push_str(&format!("  {:NAME_COLUMNS$} {}\n", child.name(), child.short));
        }
    }
    let own = command.flags.iter().chain(command.persistent).chain(help);
    page.push_str(&format!("\nFlags:\n{}", options(own, command.name())));
    if !parents.is_empty() {
        let inherited = parents.iter().flat_map(|parent| parent.persistent);
        page.push_str(&format!("\nGlobal Flags:\n{}", options(inherited, "")));
    }
    if command.run.is_none() {
        let all = names(path.len());
        page.push_str(&format!("\nUse \"{all} [command] --help\" for more information about a command.\n"));
    }
    page
}

fn options<'a>(flags: impl Iterator<Item = &'a Flag>, command: &str) -> String {
    let mut flags: Vec<_> = flags.collect();
    flags.sort_by_key(|flag| flag.name);
    let spelt: Vec<String> = flags.iter().map(|flag| spelling(flag)).collect();
    let width = spelt.iter().map(String::len).max().unwrap_or(0);
    let line = |(flag, spelt): (&&Flag, &String)| {
        let usage =
            if flag.name == HELP_FLAG.name { format!("help for {command}") } else { flag.usage.into() };
        let default = match flag.kind {
            Kind::Text if !flag.default.is_empty() => format!(" (default {:?})", flag.default),
            Kind::Int64 | Kind::Uint64 if flag.default != "0" => format!(" (default {})", flag.default),
            _ => String::new(),
        };
        format!("{spelt:width$}   {usage}{default}\n")
    };
    flags.iter().zip(&spelt).map(line).collect()
}

fn spelling(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".into(), |short| format!("-{short}, "));
    let value = match flag.kind {
        Kind::Bool => "",
        Kind::Text => " string",
        Kind::Int64 => " int",
        Kind::Uint64 => " uint",
    };
    format!("  {short}--{}{value}", flag.name)
}
