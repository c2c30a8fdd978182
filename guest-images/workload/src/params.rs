//! What to do, from the kernel command line.
//!
//! | word | meaning |
//! |---|---|
//! | `strata.mode=` | `shell` (the default), `write`, `verify`, `script`; `panic`, `exit`, `reset`, `hang` |
//! | `strata.script=` | which of the scripts in `/scripts` is run |
//! | `strata.code=` | what `exit` ends with, 0 to 255; 0 without it |
//! | `strata.disks=` | the disks, by kernel name; `vda,sda` without it |
//! | `strata.seed=` | decides every operation of this run; never the same twice in one history |
//! | `strata.seconds=` | stop writing after so long; without it, at the power button |
//! | `strata.history=` | earlier runs on these disks, oldest first: `SEED:N,N,...;SEED:N,N,...` where the Ns are what that run last reported as flushed, lane by lane |

use std::time::Duration;

#[cfg(test)]
mod tests;

/// What the guest is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Give the user a shell on the serial console.
    Shell,
    /// Verify what the history says, then write, read and flush until the end is asked for.
    Write,
    /// Verify what the history says and power off.
    Verify,
    /// Run a script that is in the image, and power off.
    Script,
    /// Make the kernel panic.
    Panic,
    /// End with a code, by the machine's exit port.
    Exit,
    /// Reset the machine.
    Reset,
    /// Do nothing for ever.
    Hang,
}

/// An earlier run on the same disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its `strata.seed`.
    pub seed: u64,
    /// For each lane, how many of its operations were covered by a reported flush.
    pub flushed: Vec<u32>,
}

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// What to do.
    pub mode: Mode,
    /// Kernel names of the disks.
    pub disks: Vec<String>,
    /// The seed of this run.
    pub seed: u64,
    /// How long to write.
    pub seconds: Option<Duration>,
    /// Earlier runs, oldest first.
    pub history: Vec<Run>,
    /// What to end with.
    pub code: u8,
    /// The script's name.
    pub script: String,
}

impl Params {
    /// Reads `/proc/cmdline`.
    pub fn from_kernel() -> Result<Params, String> {
        let path = "/proc/cmdline";
        let line = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        Params::parse(&line)
    }

    /// Parses a kernel command line; words that do not start with `strata.` belong to others.
    pub fn parse(line: &str) -> Result<Params, String> {
        let mut params = Params {
            mode: Mode::Shell,
            disks: vec!["vda".to_owned(), "sda".to_owned()],
            seed: 0,
            seconds: None,
            history: Vec::new(),
            code: 0,
            script: String::new(),
        };
        for word in line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("strata.") else {
                continue;
            };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            params
                .set(key, value)
                .map_err(|why| format!("strata.{key}={value}: {why}"))?;
        }
        params.check()?;
        Ok(params)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "mode" => self.mode = parse_mode(value)?,
            "disks" => self.disks = value.split(',').map(str::to_owned).collect(),
            "code" => self.code = parse_number(value)?,
            "script" => self.script = value.to_owned(),
            "seed" => self.seed = parse_number(value)?,
            "seconds" => self.seconds = Some(Duration::from_secs(parse_number(value)?)),
            "history" => {
                self.history = value.split(';').map(parse_run).collect::<Result<_, _>>()?
            }
            _ => return Err("unknown word".to_owned()),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut seeds: Vec<u64> = self.history.iter().map(|run| run.seed).collect();
        if self.mode == Mode::Write {
            seeds.push(self.seed);
        }
        seeds.sort_unstable();
        if seeds.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two runs have the same seed: their blocks could not be told apart".into());
        }
        Ok(())
    }
}

fn parse_mode(value: &str) -> Result<Mode, String> {
    match value {
        "shell" => Ok(Mode::Shell),
        "write" => Ok(Mode::Write),
        "verify" => Ok(Mode::Verify),
        "script" => Ok(Mode::Script),
        "panic" => Ok(Mode::Panic),
        "exit" => Ok(Mode::Exit),
        "reset" => Ok(Mode::Reset),
        "hang" => Ok(Mode::Hang),
        _ => Err("expected shell, write, verify, script, panic, exit, reset or hang".to_owned()),
    }
}

fn parse_run(text: &str) -> Result<Run, String> {
    let (seed, counts) = text.split_once(':').ok_or("expected SEED:N,N,...")?;
    let flushed = counts
        .split(',')
        .map(parse_number)
        .collect::<Result<_, _>>()?;
    Ok(Run {
        seed: parse_number(seed)?,
        flushed,
    })
}

fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number in range"))
}
