//! How far a job has come: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::{client::number, error::CtlError, print};
use crate::monitor::human_size;

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// What an entry of `query-block-jobs` says of a job's progress.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    done: u64,
    total: u64,
}

impl Figures {
    /// Those of `job`.
    pub fn of(job: &Value) -> Self {
        Self {
            done: number(job, "offset"),
            total: number(job, "len"),
        }
    }

    fn percent(self) -> u64 {
        let share = u128::from(self.done) * 100 / u128::from(self.total.max(1));
        u64::try_from(share).unwrap_or(100)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, total) = (human_size(self.done), human_size(self.total));
        write!(f, "{done} of {total} ({} %)", self.percent())
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
    /// Begins to show that of a job, such as `root: merging`.
    ///
    /// # Errors
    /// Standard output is gone.
    pub fn start(subject: String, json: bool) -> Result<Self, CtlError> {
        if json {
            return Ok(Self::Silent);
        }
        if std::io::stdout().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
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

    /// Shows how far the job is, and what is to be said of its state, if anything is.
    ///
    /// # Errors
    /// Standard output is gone.
    pub fn show(&mut self, figures: Figures, state: &str) -> Result<(), CtlError> {
        let state = match state {
            "" => String::new(),
            state => format!(", {state}"),
        };
        match self {
            Self::Silent => Ok(()),
            Self::Bar(bar) => {
                bar.set_length(figures.total);
                bar.set_position(figures.done);
                bar.set_message(format!("{figures}{state}"));
                Ok(())
            }
            Self::Lines { subject, due } => {
                if Instant::now() < *due {
                    return Ok(());
                }
                *due = Instant::now() + LINES;
                print(&format!("{subject}: {figures}{state}\n"))
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
