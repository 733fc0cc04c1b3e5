//! Passwords asked for: shown to nobody on a terminal, a line of standard input otherwise. What is asked goes to
//! standard output, as in etcdctl.

use std::io::{self, Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, SpecialCodes, Termios, tcgetattr, tcsetattr,
};

use crate::exit::Exit;

/// How etcdctl ends when it is interrupted while it asks.
const INTERRUPTED_WHILE_ASKING: u8 = 255;
/// Far above any password; what follows is left unread.
const LONGEST_BYTES: usize = 64 << 10;

/// Asks for a password, which may be empty, and takes the white space around it away.
pub fn password(question: &str) -> Result<String, Exit> {
    // First, for whoever answers as soon as the question is there.
    let terminal = Quiet::new();
    let mut out = io::stdout();
    write!(out, "{question}")?;
    out.flush()?;
    // Bytes one by one: what follows the line is for somebody else. The standard reader would take more.
    let line = read_line(&mut Unbuffered, terminal.as_ref().map(|quiet| quiet.keys));
    drop(terminal);
    let line = line.map_err(|error| Exit::failed(format_args!("failed during password entry: {error}")))?;
    writeln!(out)?;
    let line = line.ok_or_else(|| Exit::silent(INTERRUPTED_WHILE_ASKING))?;
    Ok(String::from_utf8_lossy(&line).trim().into())
}

/// A word of standard input, as Go's `Scanf("%s")` reads it: empty at the end of the input or of a line.
pub fn word_of_stdin() -> String {
    let mut word = Vec::new();
    let mut byte = [0];
    while word.len() < LONGEST_BYTES && matches!(Unbuffered.read(&mut byte), Ok(1)) {
        match byte[0] {
            b'\n' => break,
            blank if blank.is_ascii_whitespace() && word.is_empty() => {}
            blank if blank.is_ascii_whitespace() => break,
            other => word.push(other),
        }
    }
    String::from_utf8_lossy(&word).into_owned()
}

/// Standard input without the buffer that the standard library puts before it.
struct Unbuffered;

impl Read for Unbuffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buffer)?)
    }
}

/// The keys that mean something while a line is typed.
#[derive(Clone, Copy)]
struct Keys {
    interrupt: u8,
    erase: u8,
    kill: u8,
    end: u8,
}

/// A terminal that shows nothing and hands over every key as it is pressed, until dropped. Interrupting is left to
/// us too, so that no signal can leave the terminal mute.
struct Quiet {
    before: Termios,
    keys: Keys,
}

impl Quiet {
    /// `None` if standard input is no terminal.
    fn new() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &quiet).ok()?;
        let codes: &SpecialCodes = &before.special_codes;
        let keys = Keys {
            interrupt: codes[SpecialCodeIndex::VINTR],
            erase: codes[SpecialCodeIndex::VERASE],
            kill: codes[SpecialCodeIndex::VKILL],
            end: codes[SpecialCodeIndex::VEOF],
        };
        Some(Self { before, keys })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// A line without its end; `None` if the key for interrupting was pressed.
fn read_line(input: &mut impl Read, keys: Option<Keys>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST_BYTES {
        let key = match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => byte[0],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match (key, keys) {
            (b'\n', _) => break,
            (key, Some(keys)) if key == keys.interrupt => return Ok(None),
            (key, Some(keys)) if key == keys.end => break,
            (key, Some(keys)) if key == keys.kill => line.clear(),
            (key, Some(keys)) if key == keys.erase => erase(&mut line),
            (key, _) => line.push(key),
        }
    }
    Ok(Some(line))
}

/// Takes the last character away, however many bytes it has.
fn erase(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys { interrupt: 3, erase: 127, kill: 21, end: 4 };

    fn typed(mut bytes: &[u8], keys: Option<Keys>) -> Option<Vec<u8>> {
        read_line(&mut bytes, keys).unwrap()
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(typed("pw\x7f\x7fé\x7fword\nrest".as_bytes(), Some(KEYS)).unwrap(), b"word");
        assert_eq!(typed(b"wrong\x15right\n", Some(KEYS)).unwrap(), b"right");
        assert_eq!(typed(b"\x7f\x04pw\n", Some(KEYS)).unwrap(), b"");
        assert_eq!(typed(b"pw\x03\n", Some(KEYS)), None);
    }

    #[test]
    fn without_a_terminal_bytes_are_bytes() {
        assert_eq!(typed(b"a\x03\x7fb\nc", None).unwrap(), b"a\x03\x7fb");
        assert_eq!(typed(b"no end", None).unwrap(), b"no end");
    }
}
