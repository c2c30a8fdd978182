//! How far a job has come: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{client::number, error::CtlError, print};
use crate::monitor::human_size;

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// What an entry of `query-block-jobs` says of a job's progress.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    /// Bytes copied, of so many; both are 0 until those have been counted.
    copied: u64,
    to_copy: u64,
    /// Bytes a second.
    pub rate: u64,
    seconds_left: Option<u64>,
}

impl Figures {
    /// Those of `job`.
    pub fn of(job: &Value) -> Self {
        Self {
            copied: number(job, "x-copied"),
            to_copy: number(job, "x-to-copy"),
            rate: number(job, "x-rate"),
            seconds_left: job["x-seconds-left"].as_u64(),
        }
    }

    /// Bytes, and which part of them are copied.
    pub fn bytes(self) -> String {
        let share = u128::from(self.copied) * 100;
        // Of nothing, all is copied.
        let percent = share.checked_div(self.to_copy.into()).unwrap_or(100);
        let (copied, to_copy) = (human_size(self.copied), human_size(self.to_copy));
        format!("{copied} of {to_copy} ({percent} %)")
    }

    /// How long it will take, if that can be said.
    pub fn left(self) -> Option<String> {
        let seconds = self.seconds_left?;
        let (minutes, hours) = (seconds / 60, seconds / 3600);
        Some(match seconds {
            0..60 => format!("{seconds} s"),
            60..3600 => format!("{minutes} min {} s", seconds % 60),
            _ => format!("{hours} h {} min", minutes % 60),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bytes())?;
        if self.rate > 0 {
            write!(f, ", {}/s", human_size(self.rate))?;
        }
        match self.left() {
            Some(left) if self.copied < self.to_copy => write!(f, ", {left} left"),
            _ => Ok(()),
        }
    }
}

/// Where progress is shown.
pub(super) enum Progress {
    /// Nowhere: the result alone is wanted.
    Silent,
    /// On a terminal.
    Bar(ProgressBar),
    /// In a log: when the next line is due.
    Lines { subject: String, due: Instant },
}

impl Progress {
    /// Begins to show that of a job, such as `root: merging`, among the bars of others.
    ///
    /// # Errors
    /// Standard output is gone.
    pub fn start(subject: String, json: bool, bars: &MultiProgress) -> Result<Self, CtlError> {
        if json {
            return Ok(Self::Silent);
        }
        if std::io::stdout().is_terminal() {
            let bar = bars.add(ProgressBar::no_length());
            // The template is known to be right.
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.set_prefix(subject);
            return Ok(Self::Bar(bar));
        }
        print(&format!("{subject}\n"))?;
        let due = Instant::now() + LINES;
        Ok(Self::Lines { subject, due })
    }

    /// How often it pays to ask.
    pub fn interval(&self) -> Duration {
        match self {
            Self::Bar(_) => Duration::from_millis(200),
            Self::Silent | Self::Lines { .. } => Duration::from_secs(1),
        }
    }

    /// Shows how far the job is, or `state` if there is more to say than that it copies.
    ///
    /// # Errors
    /// Standard output is gone.
    pub fn show(&mut self, figures: Figures, state: &str) -> Result<(), CtlError> {
        let text = match state {
            "" => figures.to_string(),
            state => format!("{}, {state}", figures.bytes()),
        };
        match self {
            Self::Silent => Ok(()),
            Self::Bar(bar) => {
                bar.set_length(figures.to_copy.max(1));
                bar.set_position(figures.copied);
                bar.set_message(text);
                Ok(())
            }
            Self::Lines { subject, due } => {
                if Instant::now() < *due {
                    return Ok(());
                }
                *due = Instant::now() + LINES;
                print(&format!("{subject}: {text}\n"))
            }
        }
    }

    /// Shows nothing more; what a bar has drawn goes.
    pub fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
