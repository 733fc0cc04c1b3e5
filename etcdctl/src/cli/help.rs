//! The help page of a command: NAME, USAGE, COMMANDS, DESCRIPTION, OPTIONS, GLOBAL OPTIONS, aligned by tabs.

use super::command::{Command, HELP_FLAG};
use super::flags::{Flag, Kind};
use crate::go::quote::quote;

/// What etcdctl calls itself; scripts compare it with the server's version.
pub const VERSION: &str = "3.5.1";
pub const API_VERSION: &str = "3.5";

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
    let names: Vec<_> = path.iter().map(|command| command.name()).collect();
    let name = if parents.is_empty() { names.join(" ") } else { names[1..].join(" ") };
    let mut page = format!("NAME:\n\t{name} - {}\n\nUSAGE:\n\t", command.short);
    parents.iter().for_each(|parent| page.push_str(&format!("{} ", parent.name())));
    page.push_str(&format!("{} [flags]\n", command.usage));
    if parents.is_empty() {
        page.push_str(&format!("\nVERSION:\n\t{VERSION}\n"));
    }
    if !command.children.is_empty() {
        page.push_str(&format!("\nAPI VERSION:\n\t{API_VERSION}\n\n\nCOMMANDS:\n"));
        list_children(&mut page, command, "");
    }
    if !command.long.is_empty() {
        page.push_str("\nDESCRIPTION:\n");
        command.long.lines().for_each(|line| page.push_str(&format!("\t{line}\n")));
    }
    let own = command.flags.iter().chain(command.persistent);
    page.push_str(&format!("\nOPTIONS:\n{}", options(own.chain(help), command.name())));
    if !parents.is_empty() {
        let inherited = parents.iter().flat_map(|parent| parent.persistent);
        page.push_str(&format!("\nGLOBAL OPTIONS:\n{}", options(inherited, "")));
    }
    page.push('\n');
    align(&page)
}

/// One line per command that runs, those below a group under its name.
fn list_children(page: &mut String, command: &Command, prefix: &str) {
    let mut children = command.children.to_vec();
    children.sort_by_key(|child| child.name());
    for child in children {
        let name = format!("{prefix}{}", child.name());
        if child.run.is_some() {
            page.push_str(&format!("\t{name}\t{}\n", child.short));
        }
        list_children(page, child, &format!("{name} "));
    }
}

fn options<'a>(flags: impl Iterator<Item = &'a Flag>, command: &str) -> String {
    let mut flags: Vec<_> = flags.collect();
    flags.sort_by_key(|flag| flag.name);
    flags.into_iter().map(|flag| option(flag, command)).collect()
}

fn option(flag: &Flag, command: &str) -> String {
    let short = flag.short.map_or("    ".into(), |short| format!("-{short}, "));
    let default = match flag.kind {
        Kind::Bool => format!("[={}]", flag.default),
        Kind::Text => format!("={}", quote(flag.default.as_bytes())),
        Kind::List => format!("=[{}]", flag.default),
        Kind::Int64 | Kind::Duration => format!("={}", flag.default),
    };
    let usage = if flag.name == HELP_FLAG.name { format!("help for {command}") } else { flag.usage.into() };
    format!("  {short}--{}{default}\t{usage}\n", flag.name)
}

/// Lines up tab-separated cells as Go's `text/tabwriter` does with 8-column tabs: a column is as wide as its
/// widest cell in a run of lines that have it.
fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut out = String::new();
    for (at, cells) in lines.iter().enumerate() {
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < cells.len() {
                let width = column_width(&lines, at, column);
                out.extend(std::iter::repeat_n('\t', (width - cell.chars().count()).div_ceil(8)));
            }
        }
        out.push('\n');
    }
    out
}

fn column_width(lines: &[Vec<&str>], at: usize, column: usize) -> usize {
    let has = |line: &&Vec<&str>| line.len() > column + 1;
    let above = lines[..at].iter().rev().take_while(has);
    let widest =
        lines[at..].iter().take_while(has).chain(above).map(|line| line[column].chars().count()).max();
    (widest.unwrap_or(0) + 1).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_on_nothing_known_has_no_help_itself() {
        let path = [&crate::commands::ROOT];
        let line = "  -h, --help[=false]\t\t\t\thelp for etcdctl\n";
        assert!(usage(&path).contains(line));
        assert_eq!(usage(&path).replace(line, ""), usage_without_help(&path));
    }

    #[test]
    fn cells_line_up_by_block() {
        let text = "\ta\tone\n\tlonger name\ttwo\nplain\n  -w\tx\n";
        assert_eq!(align(text), "\ta\t\tone\n\tlonger name\ttwo\nplain\n  -w\tx\n");
    }
}
