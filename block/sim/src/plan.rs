//! What a seed decides before anything runs: the layers, and how the disk is opened.

use std::path::{Path, PathBuf};

use strata_exec::random;
use strata_format::{
    backing::Backing,
    qcow2::{self, DataFile, Preallocation},
    qed,
};
use strata_graph::{DetectZeroes, Format, NewImage};
use strata_storage::Faults;

/// A seed's numbers.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        random::next(&mut self.0)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

impl Random {
    /// How often calls fail in a bad time.
    pub fn faults(&mut self) -> Faults {
        let mut rate = || self.pick(&[0, 0, 5, 20, 100]);
        Faults {
            read: rate(),
            write: rate(),
            flush: rate(),
            write_back: rate(),
            other: rate(),
        }
    }
}

/// A layer to be made.
pub struct Layer {
    pub path: PathBuf,
    pub format: Format,
    /// Bytes of its disk.
    pub size: u64,
    /// `None` for a raw layer.
    pub image: Option<NewImage>,
}

/// How the disk is opened, every time.
#[derive(Clone)]
pub struct Open {
    pub discard: bool,
    pub detect_zeroes: DetectZeroes,
    /// Images that can have one get a dirty bitmap.
    pub bitmaps: bool,
    /// Bytes of tables in memory: with few, they are written back all the time.
    pub cache_bytes: usize,
}

pub struct Plan {
    /// From the base up.
    pub layers: Vec<Layer>,
    /// Bytes of the largest cluster.
    pub cluster_size: u64,
    /// Clusters in a QED image's smallest table.
    least_table: u64,
    pub open: Open,
}

/// The path of a layer by its number.
pub fn path(directory: &Path, layer: usize) -> PathBuf {
    directory.join(layer.to_string())
}

/// The path of the external data file that a layer has, if it has one.
pub fn data_path(layer: &Path) -> PathBuf {
    layer.with_extension("data")
}

impl Plan {
    /// A plan for a chain in `directory`; with `for_qemu` one that QEMU's tools understand.
    pub fn new(directory: &Path, random: &mut Random, for_qemu: bool) -> Self {
        // Half the chains are short, as most are.
        let layers = 1 + if random.one_in(2) {
            random.below(3)
        } else {
            random.below(8)
        };
        let cluster_size = largest_cluster(random);
        let size = disk_size(random, cluster_size);
        let mut plan = Self {
            layers: Vec::new(),
            cluster_size,
            // QEMU does not open images whose tables are of one cluster, which the specification
            // allows.
            least_table: if for_qemu { 2 } else { 1 },
            open: Open {
                discard: !random.one_in(4),
                detect_zeroes: random.pick(&[
                    DetectZeroes::Off,
                    DetectZeroes::Off,
                    DetectZeroes::On,
                    DetectZeroes::Unmap,
                ]),
                bitmaps: random.one_in(3),
                cache_bytes: random.pick(&[0, 0, 64 << 10, 8 << 20]),
            },
        };
        for number in 0..layers as usize {
            let top = number + 1 == layers as usize;
            let shorter = !top && random.one_in(6);
            let size = if shorter {
                (size / 2).next_multiple_of(512)
            } else {
                size
            };
            let layer = plan.layer(path(directory, number), size, random);
            plan.layers.push(layer);
        }
        plan
    }

    fn layer(&self, path: PathBuf, size: u64, random: &mut Random) -> Layer {
        let backing = self.layers.last().map(|below| Backing {
            name: name_of(&below.path, random.one_in(2)).into(),
            format: Some(below.format.to_string()),
        });
        let format = match random.below(8) {
            0..5 => Format::Qcow2,
            5 if backing.is_none() => Format::Raw,
            _ => Format::Qed,
        };
        let image = match format {
            Format::Raw => None,
            Format::Qed => Some(NewImage::Qed(self.qed(size, backing, random))),
            _ => Some(NewImage::Qcow2(self.qcow2(&path, size, backing, random))),
        };
        Layer {
            path,
            format,
            size,
            image,
        }
    }

    fn qcow2(
        &self,
        path: &Path,
        size: u64,
        backing: Option<Backing>,
        random: &mut Random,
    ) -> qcow2::CreateOptions {
        let version = if random.one_in(4) { 2 } else { 3 };
        let preallocated = backing.is_none() && random.one_in(6);
        let extended_l2 = version == 3 && random.one_in(4);
        // Of the smallest clusters that have subclusters, these have 512 bytes.
        let least = if extended_l2 { 16384 } else { 512 };
        let cluster_size = self.cluster(least, random);
        let refcount_bits = match cluster_size {
            _ if version == 2 => 16,
            // New refcount blocks all the time, and now and then a new table of them.
            ..=1024 if !random.one_in(4) => 64,
            _ => 1 << random.pick(&[4, 4, 0, 1, 2, 3, 5, 6]),
        };
        let data_file = (version == 3 && random.one_in(8)).then(|| DataFile {
            name: name_of(&data_path(path), random.one_in(2)).into(),
            raw: backing.is_none() && random.one_in(2),
        });
        qcow2::CreateOptions {
            size,
            cluster_size,
            version,
            extended_l2,
            backing,
            refcount_bits,
            lazy_refcounts: version == 3 && random.one_in(4),
            preallocation: if preallocated {
                Preallocation::Metadata
            } else {
                Preallocation::Off
            },
            data_file,
            ..qcow2::CreateOptions::default()
        }
    }

    fn qed(&self, size: u64, backing: Option<Backing>, random: &mut Random) -> qed::CreateOptions {
        qed::CreateOptions {
            size,
            cluster_size: self.cluster(4096, random),
            table_clusters: self.least_table << random.below(3),
            backing,
        }
    }

    /// A cluster size from `least` to the plan's largest; mostly one of the largest.
    fn cluster(&self, least: u64, random: &mut Random) -> u64 {
        let smaller = random.below(1 + random.clone().below(4));
        (self.cluster_size >> smaller).max(least)
    }
}

/// A file's name, relative to its directory or not.
fn name_of(path: &Path, relative: bool) -> String {
    let name = if relative { path.file_name() } else { None };
    name.unwrap_or(path.as_os_str()).display().to_string()
}

/// From 512 bytes to 2 MiB; small ones mostly, as more can happen to them in the same time: only
/// with the smallest a run needs new refcount blocks.
fn largest_cluster(random: &mut Random) -> u64 {
    match random.below(16) {
        0..3 => 512,
        3..13 => 512 << random.below(8),
        13 => 128 << 10,
        14 => 256 << 10,
        _ => 512 << 10 << random.below(3),
    }
}

/// Of many small clusters with several tables, or of a few large ones.
fn disk_size(random: &mut Random, cluster_size: u64) -> u64 {
    let most = match cluster_size {
        ..=4096 => 4 << 20,
        8192..=65536 => 1 << 20,
        _ => 6 * cluster_size,
    };
    let least = (128 << 10).max(3 * cluster_size);
    let size = least + random.below(most - least + 1);
    // A last cluster that is not whole is usual.
    let unit = if random.one_in(2) { 512 } else { cluster_size };
    size.next_multiple_of(unit)
}
