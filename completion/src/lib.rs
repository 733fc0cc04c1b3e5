//! Completion scripts for shells: one table, the words that may follow each command, and a small function that finds
//! the command among the words typed so far. Called by the command line tools, which know their words.

/// A command's full name without that of the program (empty for the program itself), and the words that may follow it.
/// Flags that need a value end in `=`.
pub struct Words {
    pub command: String,
    pub follow: Vec<String>,
}

/// The script for a shell, by its name: bash, zsh, fish or powershell. `words`: the program's own first.
pub fn script(shell: &str, program: &str, words: &[Words]) -> Option<String> {
    let write = match shell {
        "bash" => bash,
        "zsh" => zsh,
        "fish" => fish,
        "powershell" => powershell,
        _ => return None,
    };
    Some(write(program, words))
}

fn bash(name: &str, words: &[Words]) -> String {
    let mut script = format!("# bash completion for {name}\n__{name}_words() {{\n    case \"$1\" in\n");
    for Words { command, follow } in words {
        script.push_str(&format!("    '{command}') echo '{}' ;;\n", follow.join(" ")));
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
fn zsh(name: &str, words: &[Words]) -> String {
    format!(
        "#compdef {name}\nautoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{}",
        bash(name, words)
    )
}

fn fish(name: &str, words: &[Words]) -> String {
    let mut script = format!("# fish completion for {name}\nfunction __{name}_words\n    switch \"$argv\"\n");
    for Words { command, follow } in words {
        script.push_str(&format!(
            "        case '{command}'\n            printf '%s\\n' {}\n",
            follow.join(" ")
        ));
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

fn powershell(name: &str, words: &[Words]) -> String {
    let mut script = format!(
        "# powershell completion for {name}\nRegister-ArgumentCompleter -Native -CommandName '{name}' -ScriptBlock {{\n    \
         param($wordToComplete, $commandAst, $cursorPosition)\n    $words = @{{\n"
    );
    for Words { command, follow } in words {
        let follow: Vec<_> = follow.iter().map(|word| format!("'{word}'")).collect();
        script.push_str(&format!("        '{command}' = @({})\n", follow.join(", ")));
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
