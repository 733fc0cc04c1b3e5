//! Completion scripts made from the tree of commands. Each holds one table, the words that may follow each command,
//! and a small function that finds the command among the words typed so far.

use super::command::{Command, HELP_FLAG};

/// A command's full name (empty for the root), and the words that may follow it.
struct Entry {
    name: String,
    words: Vec<String>,
}

/// The tree flattened, root first. Flags that need a value end in `=`.
fn entries(root: &Command) -> Vec<Entry> {
    fn visit(command: &Command, name: &str, inherited: &[String], entries: &mut Vec<Entry>) {
        let spelt =
            |flag: &super::Flag| format!("--{}{}", flag.name, if flag.needs_value() { "=" } else { "" });
        let mut persistent = inherited.to_vec();
        persistent.extend(command.persistent.iter().map(spelt));
        let mut words: Vec<_> = command.children.iter().map(|child| child.name().to_owned()).collect();
        words.extend(command.flags.iter().chain([&HELP_FLAG]).map(spelt));
        words.extend_from_slice(&persistent);
        entries.push(Entry { name: name.into(), words });
        for child in command.children {
            visit(child, format!("{name} {}", child.name()).trim_start(), &persistent, entries);
        }
    }
    let mut all = Vec::new();
    visit(root, "", &[], &mut all);
    all
}

pub fn bash(root: &Command) -> String {
    let name = root.name();
    let mut script = format!("# bash completion for {name}\n__{name}_words() {{\n    case \"$1\" in\n");
    for Entry { name, words } in entries(root) {
        script.push_str(&format!("    '{name}') echo '{}' ;;\n", words.join(" ")));
    }
    script.push_str(&format!(
        r#"    *) return 1 ;;
    esac
}}
__{name}_complete() {{
    local command="" word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        if __{name}_words "${{command:+$command }}$word" >/dev/null; then
            command="${{command:+$command }}$word"
        fi
    done
    COMPREPLY=($(compgen -W "$(__{name}_words "$command")" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    if [[ ${{COMPREPLY[0]-}} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}}
complete -F __{name}_complete {name}
"#
    ));
    script
}

/// Zsh runs the bash script through its own emulation.
pub fn zsh(root: &Command) -> String {
    let name = root.name();
    format!(
        "#compdef {name}\nautoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{}",
        bash(root)
    )
}

pub fn fish(root: &Command) -> String {
    let name = root.name();
    let mut script = format!("# fish completion for {name}\nfunction __{name}_words\n    switch \"$argv\"\n");
    for Entry { name, words } in entries(root) {
        script.push_str(&format!("        case '{name}'\n            printf '%s\\n' {}\n", words.join(" ")));
    }
    script.push_str(&format!(
        r#"        case '*'
            return 1
    end
end
function __{name}_complete
    set -l command
    for word in (commandline -opc)[2..-1]
        if __{name}_words $command $word >/dev/null
            set -a command $word
        end
    end
    __{name}_words $command
end
complete -c {name} -f -a '(__{name}_complete)'
"#
    ));
    script
}

pub fn powershell(root: &Command) -> String {
    let name = root.name();
    let mut script = format!(
        "# powershell completion for {name}\nRegister-ArgumentCompleter -Native -CommandName '{name}' -ScriptBlock {{\n    \
         param($wordToComplete, $commandAst, $cursorPosition)\n    $words = @{{\n"
    );
    for Entry { name, words } in entries(root) {
        let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        script.push_str(&format!("        '{name}' = @({})\n", words.join(", ")));
    }
    script.push_str(
        r#"    }
    $command = ''
    foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {
        if ($element.Extent.EndOffset -ge $cursorPosition) { break }
        $longer = "$command $element".Trim()
        if ($words.ContainsKey($longer)) { $command = $longer }
    }
    $words[$command] | Where-Object { $_ -like "$wordToComplete*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
"#,
    );
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ROOT;

    #[test]
    fn words_follow_their_command() {
        let all = entries(&ROOT);
        let words = |name: &str| &all.iter().find(|entry| entry.name == name).unwrap().words;
        assert!(words("").contains(&"snapshot".to_owned()) && words("").contains(&"--write-out=".to_owned()));
        assert!(words("snapshot restore").contains(&"--skip-hash-check".to_owned()));
        assert!(!words("snapshot status").contains(&"--skip-hash-check".to_owned()));
    }
}
