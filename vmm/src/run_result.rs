//! What came of a run: the exit status, what people read on standard error, and a file for
//! programs.

mod junit;

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

use crate::machine::{DiskReport, Ended, RunError, Transcript, VcpuReport, outcome::Outcome};

/// Strata itself failed.
pub const FAILED: u8 = 125;
/// KVM cannot be used.
const KVM_UNUSABLE: u8 = 126;

/// How a guest's first program begins what it has to say on the console.
const INIT: &str = "strata-init: ";

/// What came of a run. Members have these names in the file, in kebab-case.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunResult {
    /// One word.
    pub outcome: &'static str,
    /// The exit status of the program.
    pub exit_status: u8,
    /// The code that the guest gave, as it gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// One line for people.
    pub reason: String,
    /// When things happened.
    pub times: Times,
    /// What came of the disks' requests.
    pub disks: Vec<DiskReport>,
    /// What the vCPUs were doing at the end, after a time-out or a panic.
    pub vcpus: Vec<VcpuReport>,
    /// The last lines of the console.
    pub console: Vec<String>,
    /// The core of the guest's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<PathBuf>,
    /// Why there is none, though it was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_error: Option<String>,
    /// What ran.
    pub versions: Versions,
    /// A command has ended, and has said what it had to.
    #[serde(skip)]
    command_ended: bool,
}

/// Seconds since the program's start; absent where it did not happen.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Times {
    /// The guest's kernel was entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_entry: Option<f64>,
    /// A line ended on the console that is not the kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_user_output: Option<f64>,
    /// A device got its first request for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_disk_request: Option<f64>,
    /// It was known that the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
}

/// What ran.
#[derive(Debug, Serialize)]
pub struct Versions {
    /// This program.
    pub strata: &'static str,
    /// The kernel that was booted, as the command line names it; absent where firmware booted a
    /// disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The host's kernel.
    pub host: String,
}

impl RunResult {
    /// Puts together what is known. The run has begun at `begin`.
    pub fn new(
        kernel: Option<&Path>,
        run: Result<Ended, RunError>,
        transcript: &Transcript,
        begin: Instant,
    ) -> Self {
        let since = |time: Instant| time.saturating_duration_since(begin).as_secs_f64();
        let mut result = Self {
            outcome: "failed",
            exit_status: FAILED,
            code: None,
            reason: String::new(),
            times: Times {
                first_user_output: transcript.first_of_user().map(since),
                ..Times::default()
            },
            disks: Vec::new(),
            vcpus: Vec::new(),
            console: transcript.tail(),
            core: None,
            core_error: None,
            versions: Versions {
                strata: env!("CARGO_PKG_VERSION"),
                kernel: kernel.map(|path| path.display().to_string()),
                host: host_kernel(),
            },
            command_ended: false,
        };
        match run {
            Ok(ended) => {
                result.outcome = ended.outcome.name();
                result.exit_status = ended.outcome.exit_status();
                result.reason = ended.outcome.reason();
                result.code = match ended.outcome {
                    Outcome::Exited(code) => Some(code),
                    Outcome::Command(status) => Some(status.into()),
                    _ => None,
                };
                result.command_ended = matches!(ended.outcome, Outcome::Command(_));
                result.times.kernel_entry = ended.started.map(since);
                result.times.first_disk_request = ended.first_request.map(since);
                result.times.end = Some(since(ended.ended));
                result.disks = ended.disks;
                result.vcpus = ended.vcpus;
                match ended.core {
                    Some(Ok(path)) => result.core = Some(path),
                    Some(Err(error)) => result.core_error = Some(error.to_string()),
                    None => {}
                }
            }
            Err(error) => {
                if let RunError::Unusable(_) = error {
                    result.outcome = "kvm-unusable";
                    result.exit_status = KVM_UNUSABLE;
                }
                result.reason = error.to_string();
            }
        }
        result
    }

    /// The same for a run that was there for one command.
    pub fn of_command(
        kernel: Option<&Path>,
        run: Result<Ended, RunError>,
        transcript: &Transcript,
        begin: Instant,
    ) -> Self {
        // Whatever ended it, there is no status of a command.
        let too_early = matches!(
            &run,
            Ok(Ended {
                outcome: Outcome::PoweredOff | Outcome::Signal | Outcome::Quit | Outcome::Left,
                ..
            })
        );
        let mut result = Self::new(kernel, run, transcript, begin);
        if too_early {
            result.exit_status = FAILED;
            result.reason += " before the command had ended";
            // Without its port the guest has only the console to say why.
            let said = result.console.iter().rev();
            if let Some(why) = said.flat_map(|line| line.strip_prefix(INIT)).next() {
                result.reason += &format!(": {why}");
            }
        }
        result
    }

    /// What people read: for a panic or a time-out what the guest was doing, and always a last line
    /// that says how the run ended, unless a command did and has said what it had to.
    pub fn for_people(&self) -> String {
        let mut text = String::new();
        if self.command_ended {
            return text;
        }
        if !self.vcpus.is_empty() {
            self.explain(&mut text);
        }
        if let Some(core) = &self.core {
            let core = core.display();
            let _ = writeln!(text, "strata: the guest's memory is in '{core}'");
        }
        if let Some(why) = &self.core_error {
            let _ = writeln!(text, "strata: {why}");
        }
        let _ = writeln!(text, "strata: {}", self.reason);
        text
    }

    fn explain(&self, text: &mut String) {
        if !self.console.is_empty() {
            let _ = writeln!(text, "strata: the last lines of the guest's console:");
        }
        for line in &self.console {
            let _ = writeln!(text, "    {line}");
        }
        for vcpu in &self.vcpus {
            let _ = writeln!(text, "strata: {vcpu}");
        }
        for disk in &self.disks {
            if let Some(seconds) = disk.oldest_seconds {
                let _ = writeln!(
                    text,
                    "strata: disk {}: {} requests under way, the oldest for {seconds:.1} s",
                    disk.id, disk.in_flight
                );
            }
        }
    }

    /// Writes it into `file`, as JSON.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, mut file: &File) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        file.write_all(&text)
    }
}

/// The host's kernel, as `uname -r` says it.
fn host_kernel() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
