//! A client of the human monitor.

use crate::error::{Context, Failed, Outcome};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What a monitor prints when it waits for a command; monitors of other programs with the
/// same commands print the second.
const PROMPTS: [&str; 2] = ["(strata) ", "(qemu) "];
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to `--monitor unix:PATH`.
pub struct Hmp {
    socket: UnixStream,
    transcript: File,
}

impl Hmp {
    /// Connects and waits for the first prompt. Both directions are also written to `transcript`.
    pub fn connect(path: &Path, transcript: &Path) -> Outcome<Hmp> {
        let socket = UnixStream::connect(path).context(format!("monitor {}", path.display()))?;
        socket.set_read_timeout(Some(TIMEOUT)).context("monitor")?;
        let transcript = File::create(transcript).context(transcript.display())?;
        let mut hmp = Hmp { socket, transcript };
        hmp.read_to_prompt("the greeting")?;
        Ok(hmp)
    }

    /// Sends one line and returns what is printed before the next prompt.
    pub fn send(&mut self, line: &str) -> Outcome<String> {
        self.socket
            .write_all(format!("{line}\n").as_bytes())
            .context(format!("monitor: {line}"))?;
        let answer = self.read_to_prompt(line)?;
        let answer = strip_echo(&answer, line).trim();
        writeln!(self.transcript, "> {line}\n{answer}").context("transcript")?;
        Ok(answer.to_owned())
    }

    /// Sends one line that must succeed, that is, not be answered with an error.
    pub fn run(&mut self, line: &str) -> Outcome<String> {
        let answer = self.send(line)?;
        let lower = answer.to_lowercase();
        let is_error = [
            "error",
            "unknown command",
            "try \"help",
            "not found",
            "could not",
        ]
        .iter()
        .any(|word| lower.contains(word));
        if is_error {
            return Err(Failed(format!(
                "monitor: `{line}` was answered with: {answer}"
            )));
        }
        Ok(answer)
    }

    fn read_to_prompt(&mut self, what: &str) -> Outcome<String> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let plain = plain_text(&String::from_utf8_lossy(&bytes));
            if let Some(text) = PROMPTS.iter().find_map(|prompt| plain.strip_suffix(prompt)) {
                return Ok(text.to_owned());
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Failed(format!("monitor closed while answering {what}"))),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    return Err(Failed(format!(
                        "monitor: no answer to {what}: {error}; {plain:?}"
                    )));
                }
            }
        }
    }
}

/// Without carriage returns and terminal control sequences (`ESC [`, parameters, a final byte).
fn plain_text(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
            }
            '\r' => {}
            _ => plain.push(c),
        }
    }
    plain
}

/// Without the command itself, where the monitor echoes it.
fn strip_echo<'a>(answer: &'a str, line: &str) -> &'a str {
    match answer.split_once('\n') {
        Some((first, rest)) if first.ends_with(line) => rest,
        _ => answer,
    }
}
