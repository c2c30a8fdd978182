//! What ends a run, and what a guest's reset or panic does.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{
    duration,
    keys::{self, choose},
};

/// What a reset does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnReset {
    /// The guest starts again.
    Reboot,
    /// The run ends.
    Exit,
}

/// What a panic does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnPanic {
    /// Monitors are told, and the guest goes on as it can.
    Report,
    /// The run ends.
    Exit,
    /// The guest is stopped, to be looked at.
    Pause,
}

/// Options of `strata run` about its end.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "How the run ends")]
pub struct EndingArgs {
    /// What a reset of the machine does, by whomever.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "reboot")]
    on_reset: OnReset,
    /// The same as --on-reset exit.
    #[arg(long, conflicts_with = "on_reset")]
    no_reboot: bool,
    /// What a panic of the guest's kernel does.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "report")]
    pub on_panic: OnPanic,
    /// End after so long, counted from the start: a number with the suffix s, m or h.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// A port where the guest ends the run by writing a code, as PORT[,mapping=raw|qemu].
    #[arg(long, value_name = "PORT", value_parser = parse_exit_port)]
    pub exit_port: Option<ExitPortOption>,
}

impl EndingArgs {
    /// Those of a run that is there for one command: it ends with the kernel.
    pub fn of_command(timeout: Option<Duration>) -> Self {
        Self {
            on_reset: OnReset::Exit,
            no_reboot: false,
            on_panic: OnPanic::Exit,
            timeout,
            exit_port: None,
        }
    }

    /// What a reset does.
    pub fn on_reset(&self) -> OnReset {
        if self.no_reboot {
            OnReset::Exit
        } else {
            self.on_reset
        }
    }
}

/// The value of `--exit-port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitPortOption {
    /// The first of four ports.
    pub port: u16,
    /// How what is written becomes a code.
    pub mapping: Mapping,
}

/// How what a guest writes to the exit port becomes its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// As it is.
    Raw,
    /// As QEMU's `isa-debug-exit` has it: `(x << 1) | 1`, so that it is never 0.
    Qemu,
}

impl Mapping {
    /// The code that `value` stands for.
    pub fn code(self, value: u32) -> u32 {
        match self {
            Self::Raw => value,
            Self::Qemu => value << 1 | 1,
        }
    }
}

/// Parses the value of `--exit-port`.
///
/// # Errors
/// What is wrong with it.
fn parse_exit_port(text: &str) -> Result<ExitPortOption, String> {
    let (port, keys) = match text.split_once(',') {
        Some((port, keys)) => (port, keys::pairs(keys)?),
        None => (text, Vec::new()),
    };
    let mut mapping = Mapping::Raw;
    for (key, value) in keys {
        if key != "mapping" {
            return Err(format!("unknown key '{key}'; known keys: mapping"));
        }
        let words = [("raw", Mapping::Raw), ("qemu", Mapping::Qemu)];
        mapping = choose(&key, &value, &words)?;
    }
    let number = match port.strip_prefix("0x").or_else(|| port.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => port.parse(),
    };
    match number {
        Ok(port) if port <= LAST_PORT => Ok(ExitPortOption { port, mapping }),
        _ => Err(format!(
            "a port is a number up to {LAST_PORT:#x}, such as 0xf4"
        )),
    }
}

/// The last port that has three others behind it.
const LAST_PORT: u16 = 0xfffc;

#[cfg(test)]
mod tests;
