//! Standard input as the serial line: raw, with a way out.

use std::{
    io::{self, IsTerminal, Read},
    os::fd::{AsRawFd, RawFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::machine::post::{Message, Post};

/// Ctrl-A: the next key is a command.
const ESCAPE: u8 = 0x01;

/// What Ctrl-A H shows.
const HELP: &str = "
Ctrl-A H  shows this
Ctrl-A X  ends the guest
Ctrl-A Ctrl-A  types Ctrl-A
";

/// The keys as the guest gets them, but for those that [`Keys`] takes out.
pub struct Keyboard {
    filter: Keys,
    post: Post,
    /// Kept for its `Drop`.
    _raw: Option<RawTerminal>,
}

impl Keyboard {
    /// Standard input; a terminal is switched to raw mode until this is dropped.
    pub fn new(post: Post) -> Self {
        let raw = RawTerminal::enter()
            .inspect_err(|error| tracing::warn!(%error, "the terminal stays as it is"));
        Self {
            filter: Keys::default(),
            post,
            _raw: raw.ok(),
        }
    }
}

/// This program's terminal in raw mode, until it is dropped.
pub struct RawTerminal {
    /// What it was like, where standard input is one.
    before: Option<Termios>,
}

impl RawTerminal {
    /// Switches to raw mode, if standard input is a terminal.
    ///
    /// # Errors
    /// The host's.
    pub fn enter() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // The guest's console and our own messages end lines with a line feed only.
        raw.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self {
            before: Some(before),
        })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing is left to be done if the terminal has gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

impl AsRawFd for Keyboard {
    fn as_raw_fd(&self) -> RawFd {
        io::stdin().as_raw_fd()
    }
}

impl Read for Keyboard {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Past std's buffer: what is in there cannot be waited for.
        let count = rustix::io::read(io::stdin(), &mut *buf)?;
        if count == 0 {
            return Ok(0);
        }
        let kept = self.filter.apply(&mut buf[..count]);
        if self.filter.leave() {
            self.post.send(Message::Leave);
        }
        self.filter.show_help();
        match kept {
            // Not the end of the input, which 0 would mean.
            0 => Err(io::ErrorKind::WouldBlock.into()),
            kept => Ok(kept),
        }
    }
}

/// Takes commands out of what is typed: Ctrl-A X leaves, Ctrl-A H asks for help, Ctrl-A Ctrl-A is
/// one Ctrl-A.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
    leave: bool,
    help: bool,
}

impl Keys {
    /// Whether the person wants to leave, since this was last asked.
    pub fn leave(&mut self) -> bool {
        std::mem::take(&mut self.leave)
    }

    /// Shows what commands there are, if the person has asked for it since this was last called.
    pub fn show_help(&mut self) {
        if std::mem::take(&mut self.help) {
            eprint!("{HELP}");
        }
    }

    /// Moves the bytes for the guest to the front; their number.
    pub fn apply(&mut self, bytes: &mut [u8]) -> usize {
        let mut kept = 0;
        for at in 0..bytes.len() {
            let byte = bytes[at];
            if !self.escaped && byte == ESCAPE {
                self.escaped = true;
                continue;
            }
            let escaped = std::mem::take(&mut self.escaped);
            match byte {
                b'x' | b'X' if escaped => self.leave = true,
                b'h' | b'H' if escaped => self.help = true,
                // Ctrl-A itself among them; other keys after Ctrl-A are no commands.
                _ => {
                    bytes[kept] = byte;
                    kept += 1;
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests;
