//! What `--help` and `--version` print, made from the flag table.
//!
//! Follows etcd's `server/etcdmain/help.go` and the four lines of `etcd --version`.

use super::features::FeatureGates;
use super::flags::{FLAGS, HEADINGS, Kind};
use super::{Config, VERSION};

/// The short form that follows an error.
pub fn synopsis() -> String {
    "Usage:

  etcd [flags]
    Start an etcd server.

  etcd --version
    Show the version.

  etcd -h | --help
    Show all flags.

  etcd --config-file PATH
    Start with the settings of a YAML or JSON file. Other flags and the environment are then ignored.
"
    .into()
}

pub fn full() -> String {
    let mut text = synopsis();
    let defaults = &mut Config::default();
    for (group, heading) in HEADINGS {
        text += &format!("\n{heading}:\n");
        let mut refused = Vec::new();
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            match flag.show(defaults) {
                Some(default) => text += &format!("  --{} '{default}'\n    {}\n", flag.name, flag.help),
                None => refused.push(format!("--{}", flag.name)),
            }
        }
        if !refused.is_empty() {
            text += &wrap("Not supported yet by this build: ", &refused);
        }
    }
    text += "\nFeature gates:\n";
    for (name, on) in FeatureGates::default().iter() {
        text += &format!("  {name} '{on}'\n");
    }
    let tuning = FLAGS.iter().filter(|flag| matches!(flag.kind, Kind::NoEffect { .. }));
    let without_effect: Vec<String> = tuning.map(|flag| format!("--{}", flag.name)).collect();
    text += "\nAccepted without effect:\n";
    text + &wrap("", &without_effect)
}

/// The git revision comes from the build's environment, when there was one.
pub fn version() -> String {
    format!(
        "etcd Version: {VERSION}\nGit SHA: {}\nRust Version: {}\nRust OS/Arch: {}/{}\n",
        option_env!("KEELSON_GIT_SHA").unwrap_or("unknown"),
        option_env!("KEELSON_RUSTC_VERSION").unwrap_or(concat!(">=", env!("CARGO_PKG_RUST_VERSION"))),
        std::env::consts::OS,
        arch(),
    )
}

/// Go's word for the architecture, as etcd prints it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn wrap(lead: &str, words: &[String]) -> String {
    let mut text = String::new();
    let mut line = format!("  {lead}");
    for (position, word) in words.iter().enumerate() {
        if line.len() + word.len() > 98 {
            text += line.trim_end();
            text.push('\n');
            line = "    ".into();
        }
        line += word;
        line += if position + 1 == words.len() { "." } else { ", " };
    }
    text + &line + "\n"
}
