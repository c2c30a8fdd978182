//! Progress of long commands (`-p`), as `qemu-img` prints it.

use std::{
    cell::Cell,
    io::{self, Write},
};

/// Shows how far a command is, on one line that is written over; the line ends when this is
/// dropped.
pub struct Progress {
    /// Percent between two prints, if any are wanted.
    step: Option<f64>,
    shown: Cell<f64>,
}

impl Progress {
    /// Shows 0 percent, and from then on every change of more than `step` percent, and 100 percent
    /// as often as it is reached; nothing at all without `enabled`.
    pub fn new(enabled: bool, step: f64) -> Self {
        let progress = Self {
            step: enabled.then_some(step),
            shown: Cell::new(0.0),
        };
        progress.show(0.0);
        progress
    }

    /// `done` of `total` is done (bytes, or whatever the command counts).
    pub fn at(&self, done: u64, total: u64) {
        let percent = if done < total {
            done as f64 * 100.0 / total as f64
        } else {
            100.0
        };
        let change = (percent - self.shown.get()).abs();
        if percent == 100.0 || self.step.is_some_and(|step| change > step) {
            self.show(percent);
        }
    }

    fn show(&self, percent: f64) {
        self.shown.set(percent);
        if self.step.is_some() {
            self.print(&format!("    ({percent:.2}/100%)\r"));
        }
    }

    /// Nobody is served by a command that stops because its progress cannot be shown.
    fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.step.is_some() {
            self.print("\n");
        }
    }
}
