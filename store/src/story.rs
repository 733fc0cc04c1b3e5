//! Runs stories: text files of commands and the output each must have. A command line begins with `> `, the
//! lines up to the next one are its output; blank lines and lines that begin with `#` are for the reader.

/// Runs every command of `story` and compares. On a difference it prints the story as it went.
pub fn run(name: &str, story: &str, mut command: impl FnMut(&str, &[&str]) -> String) {
    let mut went = String::new();
    for line in story.lines() {
        if let Some(text) = line.strip_prefix("> ") {
            let words: Vec<&str> = text.split_whitespace().collect();
            let output = command(words[0], &words[1..]);
            went += &format!("{line}\n{}", output.trim_end());
            went += if output.is_empty() { "" } else { "\n" };
        } else if line.is_empty() || line.starts_with('#') {
            went += &format!("{line}\n");
        }
    }
    let wanted = story.trim_end();
    assert!(went.trim_end() == wanted, "the story {name} went differently:\n{went}");
}
