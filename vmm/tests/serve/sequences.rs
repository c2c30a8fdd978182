//! Random sequences of operations on two disks whose clients write all the time: what they read is
//! what they have written, and so is what the chains show when they are opened again.
//!
//! `STRATA_SEED` is the first seed, `STRATA_SEQUENCES` how many there are.

pub mod client;
mod images;
mod operations;

use std::{cell::Cell, env, thread};

use serde_json::{Value, json};

use crate::process::{Qmp, Serve};
use client::Client;
use operations::Counts;

/// Sequences, where nobody says another number.
const SEQUENCES: u64 = 120;

/// Operations in one of them.
const OPERATIONS: u32 = 10;

/// Numbers that a seed determines (xorshift64*).
pub struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    pub fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A disk, its client, and what it shows.
pub struct Disk {
    pub id: &'static str,
    pub client: Client,
    pub model: Vec<u8>,
    /// A top that is being committed, or was, and its base: once that is the disk's top, a chain
    /// that is opened from the old one shows the same, until there is another top or another size.
    pub commit: Option<(String, String)>,
}

/// An internal snapshot.
pub struct Kept {
    pub file: String,
    pub name: String,
    /// What it keeps, where the image had nothing below it.
    pub content: Option<Vec<u8>>,
}

/// Everything of one sequence.
pub struct World {
    pub serve: Serve,
    pub qmp: Qmp,
    pub random: Random,
    pub disks: Vec<Disk>,
    pub next_file: u32,
    pub counts: Counts,
    /// Internal snapshots.
    pub kept: Vec<Kept>,
}

#[test]
fn what_is_written_is_read_through_all_that_happens_to_the_layers() {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let first = number("STRATA_SEED").unwrap_or(1);
    let count = number("STRATA_SEQUENCES").unwrap_or(SEQUENCES);
    // The processes wait for each other: two at a time keep the machine busy.
    let halves: Vec<_> = (0..2)
        .map(|half| {
            let seeds = (first..first + count).filter(move |seed| seed % 2 == half);
            thread::spawn(move || {
                let mut counts = Counts::default();
                for seed in seeds {
                    let ended = thread::spawn(move || run(seed)).join();
                    match ended {
                        Ok(one) => counts.add(&one),
                        Err(_) => panic!(
                            "failed with seed {seed}; to run it again: STRATA_SEED={seed} \
                             STRATA_SEQUENCES=1 cargo nextest run -p strata-vmm --test serve \
                             sequences"
                        ),
                    }
                }
                counts
            })
        })
        .collect();
    let mut counts = Counts::default();
    for half in halves {
        counts.add(&half.join().expect("its seed was printed"));
    }
    println!("{counts}");
    if count >= SEQUENCES {
        counts.check_all_happened();
    }
}

fn run(seed: u64) -> Counts {
    let random = Random::new(seed);
    let directory = tempfile::tempdir().unwrap();
    for id in ["a", "b"] {
        images::create(directory.path(), id, &random);
    }
    let disk = |id: &str| format!("file={id},format=qcow2,id={id},discard=unmap");
    let export = |id: &str| format!("type=nbd,disk={id},addr=unix:{id}.sock,writable=on,name={id}");
    let (a, b) = (disk("a"), disk("b"));
    let (export_a, export_b) = (export("a"), export("b"));
    let args = ["--disk", &a, "--disk", &b, "--export", &export_a];
    let args = [&args[..], &["--export", &export_b, "--qmp", "unix:qmp"]].concat();
    let serve = Serve::start_in(directory, &args);
    let qmp = serve.qmp();
    let disks = ["a", "b"].map(|id| {
        let mut client = Client::connect(&serve.path(&format!("{id}.sock")), id);
        let model = client.read(0, client.size());
        Disk {
            id,
            client,
            model,
            commit: None,
        }
    });
    let mut world = World {
        serve,
        qmp,
        random,
        disks: disks.into(),
        next_file: 0,
        counts: Counts::default(),
        kept: Vec::new(),
    };
    for _ in 0..OPERATIONS {
        world.work_a_little();
        world.operate();
        world.look_at_all();
    }
    world.end_jobs();
    world.look_at_all();
    world.end();
    world.counts
}

impl World {
    /// A few requests of a random client.
    pub fn work_a_little(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            let which = self.random.below(2) as usize;
            self.disks[which].request(&self.random);
        }
    }

    /// Reads both disks whole.
    pub fn look_at_all(&mut self) {
        for disk in &mut self.disks {
            disk.look();
        }
    }

    /// Ends the server, and opens what is left.
    fn end(&mut self) {
        let tops: Vec<_> = (0..2).map(|which| self.layers(which)).collect();
        self.qmp.run(r#"{"execute":"quit"}"#);
        assert_eq!(self.serve.wait(), Some(0));
        for (disk, layers) in self.disks.iter().zip(&tops) {
            images::check_chain(&self.serve, &layers[0].file, &disk.model);
            if let Some((old_top, base)) = &disk.commit
                && *base == layers[0].file
            {
                images::check_chain(&self.serve, old_top, &disk.model);
            }
            let depth = images::depth(&layers[0].file);
            assert_eq!(depth, layers.len(), "{}: layers when opened again", disk.id);
        }
        for kept in &self.kept {
            if let Some(content) = &kept.content {
                images::check_snapshot(&self.serve, &kept.file, &kept.name, content);
            }
        }
    }

    /// Carries out a command; the error's text if it is refused.
    pub fn command(&mut self, name: &str, arguments: &Value) -> Result<Value, String> {
        let request = json!({"execute": name, "arguments": arguments}).to_string();
        let answer: Value = serde_json::from_str(&self.qmp.answer(&request)).unwrap();
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(answer["error"]["desc"].as_str().unwrap().to_owned()),
        }
    }
}

impl Disk {
    /// A request at random.
    fn request(&mut self, random: &Random) {
        let sectors = self.model.len() as u64 / 512;
        let at = random.below(sectors);
        let most = (sectors - at).min(*random.pick(&[1, 8, 128, 600]));
        let (offset, len) = (at * 512, (1 + random.below(most)) * 512);
        let range = offset as usize..(offset + len) as usize;
        match random.below(8) {
            0 => {
                self.client.zero(offset, len);
                self.model[range].fill(0);
            }
            1 => {
                self.client.trim(offset, len);
                let now = self.client.read(offset, len);
                let before = &mut self.model[range];
                for (before, now) in before.chunks_mut(512).zip(now.chunks(512)) {
                    let is_zero = now.iter().all(|byte| *byte == 0);
                    assert!(is_zero || before == now, "a discard has made up bytes");
                    before.copy_from_slice(now);
                }
            }
            2 => self.client.flush(),
            _ => {
                let bytes: Vec<u8> = (0..len / 512)
                    .flat_map(|_| [1 + random.below(255) as u8; 512])
                    .collect();
                self.client.write(offset, &bytes);
                self.model[range].copy_from_slice(&bytes);
            }
        }
    }

    fn look(&mut self) {
        let now = self.client.read(0, self.model.len() as u64);
        assert_eq!(
            first_difference(&now, &self.model),
            None,
            "disk {}",
            self.id
        );
    }
}

/// Where bytes differ, as far as there are both.
pub fn first_difference(found: &[u8], expected: &[u8]) -> Option<usize> {
    let len = found.len().min(expected.len());
    let (found, expected) = (&found[..len], &expected[..len]);
    // Fast where they are the same.
    if found == expected {
        return None;
    }
    found.iter().zip(expected).position(|(a, b)| a != b)
}
