//! What the guest has printed last, and what its kernel says there of a panic.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use strata_devices::legacy::serial::Output;

use crate::machine::post::{GuestEvent, Post};

/// Lines that are kept.
pub const LINES: usize = 50;
/// Bytes of a line that are kept.
const LINE: usize = 1024;

/// What Linux prints first of a panic, and last if it does not restart the machine then.
const PANIC: &str = "Kernel panic - not syncing: ";
const PANIC_END: &str = "---[ end Kernel panic - not syncing";

/// The last lines of the console. Cheap to clone.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    whole: VecDeque<String>,
    /// The line that has not ended yet, as far as it is kept.
    current: Vec<u8>,
    first_of_user: Option<Instant>,
}

impl Transcript {
    /// The last lines, the oldest first; the last one may not have ended.
    pub fn tail(&self) -> Vec<String> {
        let lines = self.lock();
        let mut tail: Vec<_> = lines.whole.iter().cloned().collect();
        if !lines.current.is_empty() {
            tail.push(text(&lines.current));
        }
        let surplus = tail.len().saturating_sub(LINES);
        tail.split_off(surplus)
    }

    /// When the first line ended that is not the kernel's, that is, has no time in brackets in
    /// front.
    pub fn first_of_user(&self) -> Option<Instant> {
        self.lock().first_of_user
    }

    /// Forgets the line that has not ended: the machine starts anew.
    pub fn cut(&self) {
        self.lock().current.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Takes in what was printed; `ended` is called with each line that ends there.
    fn take(&mut self, bytes: &[u8], mut ended: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = text(&self.current);
                    self.current.clear();
                    ended(&line);
                    self.keep(line);
                }
                _ if self.current.len() < LINE => self.current.push(byte),
                _ => {}
            }
        }
    }

    fn keep(&mut self, line: String) {
        if self.first_of_user.is_none() && !line.is_empty() && message(&line) == line {
            self.first_of_user = Some(Instant::now());
        }
        if self.whole.len() == LINES {
            self.whole.pop_front();
        }
        self.whole.push_back(line);
    }
}

/// A line as people can read it: without the carriage return, and without what would control their
/// terminal.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let visible = text.trim_end_matches('\r').chars();
    visible
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A kernel's message without the time, and perhaps the caller, that stand in brackets in front.
fn message(line: &str) -> &str {
    let mut rest = line;
    while let Some(inside) = rest.strip_prefix('[')
        && let Some((inside, behind)) = inside.split_once(']')
        && inside
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " .".contains(c))
        && inside.chars().any(|c| c.is_ascii_digit())
    {
        rest = behind.trim_start();
    }
    rest
}

/// What a line says of a panic.
fn panic_in(line: &str) -> Option<GuestEvent> {
    let message = message(line);
    if let Some(reason) = message.strip_prefix(PANIC) {
        return Some(GuestEvent::PanicPrinted(reason.trim_end().to_owned()));
    }
    message
        .starts_with(PANIC_END)
        .then_some(GuestEvent::PanicEnded)
}

/// Output that is also taken down.
pub struct Recorded {
    output: Output,
    transcript: Transcript,
    post: Post,
}

impl Recorded {
    /// Prints to `output`, and reports panics to `post`.
    pub fn new(output: Output, transcript: Transcript, post: Post) -> Self {
        Self {
            output,
            transcript,
            post,
        }
    }
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let post = &self.post;
        // Before it is printed: what nobody can or wants to read was said all the same.
        self.transcript.lock().take(bytes, |line| {
            if let Some(event) = panic_in(line) {
                post.guest(event);
            }
        });
        self.output.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests;
