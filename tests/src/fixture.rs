//! Where a scenario runs: its directories, its seed, its clock, and what it prints.

use crate::error::{Context, Outcome};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One scenario's surroundings.
pub struct Fixture {
    /// Disk images and sockets.
    pub dir: PathBuf,
    /// Logs, which `ci/testhost` copies out.
    pub logs: PathBuf,
    /// Holds `vmlinuz` and `guest.img`.
    pub images: PathBuf,
    /// What decides everything random.
    pub seed: u64,
    random: Cell<u64>,
    start: Instant,
    /// Mark, what, and what was found.
    rows: Vec<(&'static str, String, String)>,
}

impl Fixture {
    /// Makes the directories. They are `name` below `work` and `out`.
    pub fn new(name: &str, seed: u64, work: &Path, out: &Path, images: &Path) -> Outcome<Fixture> {
        let (dir, logs) = (work.join(name), out.join(name));
        for directory in [&dir, &logs] {
            fs::create_dir_all(directory).context(directory.display())?;
        }
        let (images, random) = (images.to_owned(), Cell::new(seed));
        Ok(Fixture {
            dir,
            logs,
            images,
            seed,
            random,
            start: Instant::now(),
            rows: Vec::new(),
        })
    }

    /// Prints what happens: one line, with the time since the start.
    pub fn say(&self, what: &str, text: impl AsRef<str>) {
        let seconds = self.start.elapsed().as_secs_f64();
        println!("[{seconds:6.1}s] {what:<9} {}", text.as_ref());
    }

    /// Notes for the table at the end that something was checked and found right.
    pub fn verified(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.rows.push(("ok", what.into(), found.into()));
    }

    /// Notes a measurement: one that misses its goal stands out in the table, but fails nothing.
    pub fn measured(&mut self, what: &str, found: String, meets_goal: bool) {
        let mark = if meets_goal { "ok" } else { "!!" };
        self.rows.push((mark, what.to_owned(), found));
    }

    /// The table of what was verified.
    pub fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|(_, what, _)| what.len())
            .max()
            .unwrap_or(0);
        self.rows
            .iter()
            .map(|(mark, what, found)| format!("  {mark}  {what:<width$}  {found}\n"))
            .collect()
    }

    /// A number in `0..bound` that follows from the seed and the calls before.
    pub fn random(&self, bound: u64) -> u64 {
        // An xorshift with a multiplication; the seed may be 0, its successor may not.
        let mut x = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
