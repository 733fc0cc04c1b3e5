//! Rules of the source tree, checked on its text: headers, import arrows of the store, one place for RocksDB,
//! file sizes, unfinished work, paths of one machine. Every finding is listed, with file and line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Beyond this a file has a second noun.
const MAX_LINES: usize = 1_200;
const MAX_COLUMNS: usize = 120;

/// Imports that go against the arrows: file, module, and why.
const EXEMPT_IMPORTS: [(&str, &str, &str); 2] = [
    ("store/src/log.rs", "config", "its settings, plain values of the same row"),
    ("store/src/apply/apply_test.rs", "node", "carries applied state through a snapshot stream"),
];

struct File {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Our text files: not what is built, generated or hidden.
fn files() -> Vec<File> {
    fn walk(dir: &Path, root: &Path, files: &mut Vec<File>) {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for entry in entries {
            let path = entry.expect("entry").path();
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.is_dir() {
                let skipped =
                    ["target", "data", "proto/src/gen"].contains(&name.as_str()) || name.ends_with(".etcd");
                if !skipped && (!hidden || name == ".ci") {
                    walk(&path, root, files);
                }
            } else if name != ".git"
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                // In a linked worktree `.git` is a file, which names the main one.
                files.push(File { path: name, text });
            }
        }
    }
    let mut files = Vec::new();
    walk(&root(), &root(), &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn sources() -> Vec<File> {
    let files: Vec<File> = files().into_iter().filter(|file| file.path.ends_with(".rs")).collect();
    assert!(files.len() > 100, "the sources are not where they were: {} files", files.len());
    files
}

fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}

/// Lines of the code outside comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Lines of code that hold one of `words`.
fn lines_with(files: &[File], words: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        for (n, line) in code(&file.text) {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{n}: {word}", file.path));
            }
        }
    }
    findings
}

#[test]
fn every_file_says_what_it_is() {
    let findings: Vec<String> =
        sources().into_iter().filter(|file| !file.text.starts_with("//! ")).map(|file| file.path).collect();
    report("a file opens with a `//!` header", &findings);
}

#[test]
fn no_file_is_too_long() {
    let mut findings = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines", file.path));
        }
    }
    report(&format!("a file has at most {MAX_LINES} lines"), &findings);
}

#[test]
fn comments_are_not_too_wide() {
    let mut findings = Vec::new();
    for file in sources() {
        for (n, line) in (1..).zip(file.text.lines()) {
            let text = line.trim_start();
            let is_table = text.starts_with("//! |") || text.starts_with("/// |");
            if text.starts_with("//") && !is_table && line.chars().count() > MAX_COLUMNS {
                findings.push(format!("{}:{n}", file.path));
            }
        }
    }
    report(&format!("a comment has at most {MAX_COLUMNS} columns"), &findings);
}

#[test]
fn nothing_is_left_undone() {
    // Put together, so that this file does not hold them.
    let words = ["todo", "dbg", "unimplemented"].map(|word| format!("{word}!("));
    report("no unfinished work", &lines_with(&sources(), &words));
}

#[test]
fn only_one_file_names_rocksdb() {
    let mut files = sources();
    files.retain(|file| file.path.starts_with("store/") && file.path != "store/src/backend/rocks.rs");
    report("RocksDB stays behind backend/rocks.rs", &lines_with(&files, &["rocksdb::".to_string()]));
}

#[test]
fn judges_do_not_know_the_judged() {
    let manifest =
        std::fs::read_to_string(root().join("jepsen/oracle/Cargo.toml")).expect("the judges' manifest");
    assert!(!manifest.contains("store"), "the judges share nothing with the server");
}

#[test]
fn no_path_of_one_machine() {
    let mut findings = Vec::new();
    for file in files() {
        for (n, line) in file.text.lines().enumerate() {
            for place in ["home", "root", "work", "opt", "Users"] {
                let place = format!("/{place}/");
                // A path begins there; it is not the middle of another.
                let begins = line.match_indices(&place).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || "_-.}*".contains(before))
                });
                if begins {
                    findings.push(format!("{}:{}: {place}", file.path, n + 1));
                }
            }
        }
    }
    report("no paths of one machine", &findings);
}

/// The rows of the table in `store/src/lib.rs`, as module to row.
fn rows(lib: &str) -> BTreeMap<String, u32> {
    let mut rows = BTreeMap::new();
    for line in lib.lines() {
        let Some(cells) = line.strip_prefix("//! | ") else { continue };
        let Some((row, modules)) = cells.split_once(" | ") else { continue };
        let Ok(row) = row.parse() else { continue };
        for module in modules.split('`').skip(1).step_by(2) {
            assert!(rows.insert(module.to_string(), row).is_none(), "{module} is in two rows");
        }
    }
    assert!(rows.len() > 10, "the table of rows in store/src/lib.rs is not as it was");
    rows
}

/// Modules of the crate that `text` names by `prefix`, each with its line. Knows `prefix::a::b` and
/// `prefix::{a::{..}, b}`, over several lines.
fn named(text: &str, prefix: &str) -> Vec<(usize, String)> {
    // Comments become empty lines, so that the numbers stay.
    let mut kept = String::new();
    let mut next = 1;
    for (n, line) in code(text) {
        while next < n {
            kept.push('\n');
            next += 1;
        }
        let _ = writeln!(kept, "{}", line.split_once(" //").map_or(line, |(code, _)| code));
        next += 1;
    }
    let identifier =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in kept.match_indices(prefix) {
        if kept[..at].ends_with(|before: char| before.is_alphanumeric() || "_:$".contains(before)) {
            continue;
        }
        let mut position = at + prefix.len();
        let line_of = |position: usize| kept[..position].matches('\n').count() + 1;
        if !kept[position..].starts_with('{') {
            found.push((line_of(position), identifier(&kept[position..])));
            continue;
        }
        let (mut depth, mut wants_name) = (0, false);
        while let Some(c) = kept[position..].chars().next() {
            match c {
                '{' => (depth, wants_name) = (depth + 1, depth == 0),
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' => wants_name = depth == 1,
                c if wants_name && !c.is_whitespace() => {
                    found.push((line_of(position), identifier(&kept[position..])));
                    wants_name = false;
                }
                _ => {}
            }
            position += c.len_utf8();
        }
    }
    found
}

#[test]
fn imports_of_the_store_point_down() {
    let files = sources();
    let lib = files.iter().find(|file| file.path == "store/src/lib.rs").expect("store/src/lib.rs");
    let rows = rows(&lib.text);
    let mut findings = Vec::new();
    // `pub mod x;` and its row belong together.
    let declared = lib.text.replace("#[cfg(test)]\nmod ", "#[cfg(test)] mod ");
    for line in declared.lines() {
        let module = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "));
        if let Some(module) = module.map(|module| module.trim_end_matches(';'))
            && !rows.contains_key(module)
        {
            findings.push(format!("{}: `{module}` has no row", lib.path));
        }
    }
    for file in &files {
        let Some(path) = file.path.strip_prefix("store/src/") else { continue };
        let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        let own = parts[0];
        // Row 8 may import all, and what only tests use is in no row.
        let Some(row) = rows.get(own) else { continue };
        // The parent of a top module is the crate.
        let mut names = named(&file.text, "crate::");
        names.extend(named(&file.text, &"super::".repeat(parts.len())));
        for (line, name) in names {
            let allowed = name == own
                || rows.get(&name).is_none_or(|target| target < row)
                || EXEMPT_IMPORTS.iter().any(|(path, module, _)| *path == file.path && *module == name);
            if !allowed {
                findings.push(format!(
                    "{}:{line}: {own} (row {row}) imports {name} (row {})",
                    file.path, rows[&name]
                ));
            }
        }
    }
    report("a module of the store imports only lower rows", &findings);
}

#[test]
fn names_are_found_in_groups() {
    let text = "use crate::{\n    a::{b, c},\n    // crate::d\n    e,\n};\nfn f() { crate::g::h(); $crate::i!(); }\n";
    let names: Vec<_> =
        named(text, "crate::").into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["2 a", "4 e", "6 g"]);
}
