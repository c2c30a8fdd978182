//! Repairs: what they put right, and that a power cut during one does no harm.

use std::{cell::Cell, rc::Rc};

use strata_exec::{Executor, Queue, yield_now};
use strata_storage::{SimFile, Storage};

use super::support::*;
use crate::{
    check::{CheckReport, Repair},
    qcow2::{OpenOptions, Qcow2},
};

const READ_ONLY: OpenOptions = OpenOptions {
    read_only: true,
    ..SMALL_CACHE
};
const COPIED: u64 = 1 << 63;

/// A sound image with data, an internal snapshot that shares some of it, and its bytes.
fn image(cluster: u64) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.qcow2");
    let name = path.to_str().unwrap();
    let options = format!("cluster_size={cluster}");
    run(
        "qemu-img",
        &["create", "-f", "qcow2", "-o", &options, name, "2M"],
    );
    run(
        "qemu-io",
        &["-c", "write -P 7 0 200k", "-c", "write -z 1M 64k", name],
    );
    run("qemu-img", &["snapshot", "-c", "one", name]);
    run(
        "qemu-io",
        &["-c", "write -P 9 100k 200k", "-c", "discard 0 20k", name],
    );
    std::fs::read(path).unwrap()
}

/// Damages that change nothing of what the disk shows.
struct Damage<'a> {
    bytes: &'a mut Vec<u8>,
    random: &'a mut Random,
}

impl Damage<'_> {
    fn get(&self, at: u64) -> u64 {
        let at = at as usize;
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: u64, value: u64) {
        let at = at as usize;
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Flips the COPIED flag of an entry, if there is one.
    fn flip(&mut self, at: u64) {
        let raw = self.get(at);
        if raw & !COPIED & !1 != 0 {
            self.set(at, raw ^ COPIED);
        }
    }

    fn one(&mut self) {
        let (l1, refcount_table) = (self.get(40), self.get(48));
        let block = self.get(refcount_table);
        let cluster = 1u64 << self.bytes[23];
        let table = self.get(l1) & !COPIED;
        match self.random.below(7) {
            0 | 1 if block < self.bytes.len() as u64 && block.is_multiple_of(cluster) => {
                let at = (block + self.random.below(cluster.min(128)) / 2 * 2) as usize;
                let count = self.random.below(4) as u16;
                self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
            }
            2 | 3 => {
                let index = self.random.below(cluster / 8);
                self.flip(table + index * 8);
            }
            4 => self.flip(l1),
            5 if self.random.chance(30) => {
                let entry = [0, 0x200, block + 512, 1 << 40][self.random.below(4) as usize];
                self.set(refcount_table, entry);
            }
            _ => self.bytes[79] |= 1 << self.random.below(2),
        }
    }
}

async fn open(file: &Rc<SimFile>) -> Qcow2 {
    let image = Qcow2::open(Storage::Sim(file.clone()), READ_ONLY).await;
    image.unwrap()
}

async fn content(file: &Rc<SimFile>) -> Vec<u8> {
    open_layer(file, READ_ONLY, nothing())
        .await
        .read_all()
        .await
}

/// What a power cut after each change of the file leaves, and what the work leaves in the end.
async fn crashes_at_changes(
    exec: &Rc<Executor>,
    file: &Rc<SimFile>,
    work: impl Future<Output = ()> + 'static,
) -> Vec<Vec<u8>> {
    let done = Rc::new(Cell::new(false));
    let mark = done.clone();
    exec.spawn(Queue::Guest, async move {
        work.await;
        mark.set(true);
    });
    let (mut crashes, mut seen) = (Vec::new(), file.changes());
    while !done.get() {
        if file.changes() != seen {
            seen = file.changes();
            crashes.extend((0..2).map(|n| file.crash(seen * 7 + n)));
        }
        yield_now().await;
    }
    crashes.push(file.bytes());
    crashes
}

/// Clusters that are in use more often than their refcounts say: these could be given away.
fn unprotected(report: &CheckReport) -> usize {
    let lines = report.lines.iter();
    lines
        .filter(|line| line.starts_with("ERROR cluster"))
        .count()
}

#[test]
fn a_power_cut_during_a_repair_does_no_harm() {
    let images = [512, 4096, 65536].map(image);
    for seed in 0..24 {
        let mut bytes = images[seed as usize % 3].clone();
        with_seed(seed, |exec, seed| async move {
            let mut random = Random(seed);
            let expected = content(&sim_with(bytes.clone(), 0)).await;
            for _ in 0..1 + random.below(6) {
                let damage = &mut Damage {
                    bytes: &mut bytes,
                    random: &mut random,
                };
                damage.one();
            }
            let file = sim_with(bytes, seed);
            let before = unprotected(&open(&file).await.check().await.unwrap());
            let work = {
                let file = file.clone();
                async move {
                    open(&file).await.repair(Repair::All).await.unwrap();
                }
            };
            let crashes = crashes_at_changes(&exec, &file, work).await;
            let every = 1 + crashes.len() / 12;
            for crash in crashes.into_iter().rev().step_by(every) {
                let file = sim_with(crash, seed);
                assert!(
                    content(&file).await == expected,
                    "the disk shows other bytes"
                );
                let image = open(&file).await;
                assert!(unprotected(&image.check().await.unwrap()) <= before);
                image.repair(Repair::All).await.unwrap();
                let image = open(&file).await;
                let report = image.check().await.unwrap();
                assert!(report.is_clean(), "{report:#?}");
                assert!(!image.is_dirty() && image.writing_refused().is_none());
                assert!(
                    content(&file).await == expected,
                    "the disk shows other bytes"
                );
            }
            check_bytes(&file.bytes(), false);
        });
    }
}

#[test]
fn leaks_are_kept_where_a_table_is_lost() {
    with_seed(1, |_, seed| async move {
        let mut bytes = image(65536);
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        bytes[l1 + 6] |= 2;
        let file = sim_with(bytes, seed);
        let report = open(&file).await.repair(Repair::All).await.unwrap();
        assert_eq!(report.leaks_fixed, 0, "{report:#?}");
        assert!(report.leaks > 0 && report.corruptions == 1, "{report:#?}");
    });
}

#[test]
fn an_unaligned_entry_in_what_may_be_data_is_left_alone() {
    with_seed(1, |_, seed| async move {
        let mut bytes = image(65536);
        let word = |bytes: &[u8], at: usize| {
            u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) & !COPIED
        };
        let l1 = word(&bytes, 40) as usize;
        let l2 = word(&bytes, l1) as usize;
        // The disk shows its own L2 table as data, and one entry of that is damaged.
        bytes[l2 + 64..l2 + 72].copy_from_slice(&(l2 as u64).to_be_bytes());
        bytes[l2 + 72..l2 + 80].copy_from_slice(&0x5_0201u64.to_be_bytes());
        let file = sim_with(bytes, seed);
        let before = file.bytes()[l2..l2 + 65536].to_vec();
        let report = open(&file).await.repair(Repair::All).await.unwrap();
        assert!(report.corruptions > 0, "{report:#?}");
        assert!(file.bytes()[l2..l2 + 65536] == before);
    });
}

/// QEMU's check compares refcounts as far as the file goes, and so does ours.
#[test]
fn refcounts_behind_the_end_of_the_file_are_passed_over() {
    with_seed(1, |_, seed| async move {
        let mut bytes = image(65536);
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let block = word(word(48));
        let behind = block + 2 * (bytes.len().div_ceil(65536) + 3);
        bytes[behind..behind + 2].copy_from_slice(&1u16.to_be_bytes());
        check_bytes(&bytes, false);
        let mut report = open(&sim_with(bytes.clone(), seed))
            .await
            .check()
            .await
            .unwrap();
        assert!(report.is_clean(), "{report:#?}");
        // They are leaks as soon as the file is that long.
        bytes.resize(bytes.len().next_multiple_of(65536) + (4 << 16), 0);
        report = open(&sim_with(bytes, seed)).await.check().await.unwrap();
        assert_eq!((report.leaks, report.corruptions), (1, 0), "{report:#?}");
    });
}
