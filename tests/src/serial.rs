//! What the guest reports on its serial line; see the workload's `report.rs` for the lines.

use crate::error::{Context, Failed, Outcome};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[cfg(test)]
mod tests;

/// Longest requests and their number since the previous report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoSample {
    /// When the host read the report.
    pub at: Instant,
    /// Guest time of the report, in milliseconds since the workload's start.
    pub guest_ms: u64,
    /// One entry for each disk.
    pub disks: Vec<DiskSample>,
}

/// One disk's part of an [`IoSample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSample {
    /// Kernel name.
    pub name: String,
    /// Longest read, write and flush, in microseconds.
    pub longest: [u64; 3],
    /// Requests done.
    pub requests: u64,
}

/// The numbers of a `verified` line, in units of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Held what was last acknowledged as flushed.
    pub acknowledged: u64,
    /// Held a later write.
    pub newer: u64,
    /// Never acknowledged.
    pub never: u64,
}

/// Follows the file that a machine's serial port is written to.
pub struct Serial {
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
    /// The last `flushed` report, by lane.
    pub flushed: Vec<u32>,
    /// All `io` reports.
    pub io: Vec<IoSample>,
    /// How often the guest has booted, that is, begun to verify.
    pub boots: u32,
    /// How often the workload has begun to write.
    pub starts: u32,
    /// What the check of earlier runs found.
    pub verified: Option<Verified>,
    /// Bytes of the disk that the kernel last found to have another size.
    pub new_size: Option<u64>,
    /// What a script has printed, line by line.
    pub said: Vec<String>,
    /// Whether the workload has ended well.
    pub has_passed: bool,
    /// The workload's own failure, or the kernel's.
    pub failure: Option<String>,
}

impl Serial {
    /// The file need not exist yet.
    pub fn follow(path: &Path) -> Serial {
        Serial {
            path: path.to_owned(),
            file: None,
            pending: Vec::new(),
            flushed: Vec::new(),
            io: Vec::new(),
            boots: 0,
            starts: 0,
            verified: None,
            new_size: None,
            said: Vec::new(),
            has_passed: false,
            failure: None,
        }
    }

    /// Whether a script has printed this line.
    pub fn has_said(&self, line: &str) -> bool {
        self.said.iter().any(|said| said == line)
    }

    /// Reads what has been written since the last call. Fails if the guest reports a failure.
    pub fn update(&mut self) -> Outcome<()> {
        if self.file.is_none() && self.path.exists() {
            let what = self.path.display().to_string();
            self.file = Some(File::open(&self.path).context(what)?);
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.pending)
                .context(self.path.display())?;
        }
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.take_line(&String::from_utf8_lossy(&line));
        }
        match &self.failure {
            Some(failure) => Err(Failed(format!("the guest says: {failure}"))),
            None => Ok(()),
        }
    }

    fn take_line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.contains("Kernel panic") {
            self.failure = Some(line.to_owned());
        }
        if let Some((_, text)) = line.split_once("] new size: ") {
            self.new_size = parse_new_size(text);
        }
        let Some(text) = checked(line) else { return };
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "flushed" => {
                if let Ok(counts) = rest.split(',').map(str::parse).collect() {
                    self.flushed = counts;
                }
            }
            "io" => self.io.extend(parse_io(rest)),
            "verifying" => self.boots += 1,
            "ready" => self.starts += 1,
            "verified" => self.verified = parse_verified(rest),
            "said" => self.said.push(rest.to_owned()),
            "pass" => self.has_passed = true,
            "FAIL" => self.failure = Some(rest.to_owned()),
            _ => {}
        }
    }
}

/// The text of a workload's line, if it is one and complete: `STRATA text *xx`.
fn checked(line: &str) -> Option<&str> {
    let start = line.find("STRATA ")?;
    let (body, check) = line[start..].rsplit_once(" *")?;
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    (check == format!("{sum:02x}")).then(|| &body["STRATA ".len()..])
}

/// What Linux prints about a virtio disk: `N B-byte logical blocks (...)`.
fn parse_new_size(text: &str) -> Option<u64> {
    let mut words = text.split(' ');
    let blocks: u64 = words.next()?.parse().ok()?;
    let bytes: u64 = words.next()?.strip_suffix("-byte")?.parse().ok()?;
    blocks.checked_mul(bytes)
}

fn parse_io(text: &str) -> Option<IoSample> {
    let mut words = text.split(' ');
    let seconds: f64 = words.next()?.strip_prefix("t=")?.parse().ok()?;
    let disks = words.map(parse_disk).collect::<Option<_>>()?;
    Some(IoSample {
        at: Instant::now(),
        guest_ms: (seconds * 1000.0) as u64,
        disks,
    })
}

fn parse_disk(word: &str) -> Option<DiskSample> {
    let (name, numbers) = word.split_once('=')?;
    let numbers: Vec<u64> = numbers
        .split('/')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [read, write, flush, requests] = numbers[..] else {
        return None;
    };
    Some(DiskSample {
        name: name.to_owned(),
        longest: [read, write, flush],
        requests,
    })
}

fn parse_verified(text: &str) -> Option<Verified> {
    let mut numbers = text
        .split(' ')
        .map(|word| word.split_once('=')?.1.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(Verified {
        acknowledged: next()?,
        newer: next()?,
        never: next()?,
    })
}
