//! Persistent dirty bitmaps of images that both sides write to, and resize: what is dirty, both
//! say, and it is what was written.

use serde_json::Value;

use crate::{
    matrix::{Case, PLAIN, with_data_files},
    requests::Request,
    support::*,
};

/// Granularities as powers of two: a sector, sizes around a cluster, and more than the disk.
const GRANULARITIES: [u32; 5] = [9, 12, 16, 21, 31];

/// A bitmap that is to be found in an image.
struct Expected {
    name: String,
    granularity_bits: u32,
    /// Where it has been made while the disk was in use.
    bits: Vec<bool>,
    recording: bool,
}

impl Expected {
    /// The bits of a disk of `size` bytes.
    fn resize(&mut self, size: u64) {
        let bits = size.div_ceil(1 << self.granularity_bits);
        self.bits.resize(bits as usize, false);
    }

    fn record(&mut self, request: &Request) {
        if self.recording {
            let first = request.offset >> self.granularity_bits;
            let last = (request.offset + request.len - 1) >> self.granularity_bits;
            self.bits[first as usize..=last as usize].fill(true);
        }
    }

    /// Its dirty ranges on a disk of `size` bytes.
    fn dirty(&self, size: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (n, _) in self.bits.iter().enumerate().filter(|(_, dirty)| **dirty) {
            let start = (n as u64) << self.granularity_bits;
            let len = (1 << self.granularity_bits).min(size - start);
            match ranges.last_mut() {
                Some((first, total)) if *first + *total == start => *total += len,
                _ => ranges.push((start, len)),
            }
        }
        ranges
    }
}

/// The dirty ranges as QEMU shows them.
fn qemu_dirty(directory: &Directory, name: &str) -> Vec<(u64, u64)> {
    let map = format!("--map=qemu:dirty-bitmap:{name}");
    let server = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name, IMAGE, "]"];
    let out = directory.run("nbdinfo", &[&["--json", &map, "--"], &server[..]].concat());
    let runs: Vec<Value> = serde_json::from_str(&out).unwrap();
    let dirty = runs.iter().filter(|run| run["type"] == 1);
    let number = |run: &Value, name: &str| run[name].as_u64().unwrap();
    dirty
        .map(|run| (number(run, "offset"), number(run, "length")))
        .collect()
}

/// The dirty ranges of all bitmaps as we have them, by name.
fn our_dirty(directory: &Directory) -> Vec<(String, Vec<(u64, u64)>)> {
    with_image(directory, async |node| {
        let of = |bitmap: &strata_format::bitmap::DirtyBitmap| {
            assert!(!bitmap.is_inconsistent(), "{} is lost", bitmap.name());
            let (mut at, mut ranges) = (0, Vec::new());
            for (len, dirty) in bitmap.runs(0, bitmap.size(), usize::MAX) {
                if dirty {
                    ranges.push((at, len));
                }
                at += len;
            }
            (bitmap.name().to_owned(), ranges)
        };
        let bitmaps = node.bitmaps().list();
        bitmaps.iter().map(|bitmap| of(bitmap)).collect()
    })
}

/// One image under test.
struct Subject<'a> {
    case: &'a Case,
    directory: Directory,
    size: u64,
    random: Random,
    bitmaps: Vec<Expected>,
}

#[test]
fn both_sides_record_the_same() {
    let plain = Case {
        bitmap: true,
        ..PLAIN
    };
    let mut cases: Vec<Case> = with_data_files().filter(|case| case.bitmap).collect();
    cases.extend([512, 4096, 65536, 2 << 20].map(|cluster| Case { cluster, ..plain }));
    cases.extend([
        Case {
            extended_l2: true,
            backing: true,
            ..plain
        },
        Case {
            lazy: true,
            compressed: Some("zstd"),
            refcount_bits: 64,
            ..plain
        },
        Case {
            snapshot: true,
            cluster: 4096,
            ..plain
        },
    ]);
    for (n, case) in cases.iter().enumerate() {
        println!("{n}: {case:?}");
        let directory = Directory::new();
        directory.create(["qemu-img", "strata-img"][n % 2], case, "");
        let mut subject = Subject {
            case,
            directory,
            size: case.size(),
            random: Random(n as u64),
            bitmaps: Vec::new(),
        };
        subject.run();
    }
}

impl Subject<'_> {
    fn run(&mut self) {
        for (n, bits) in GRANULARITIES.into_iter().enumerate() {
            self.add(["qemu-img", "strata-img"][n % 2], bits, true);
        }
        self.add("strata-img", 10, false);
        for round in 0..4 {
            let ours = round % 2 == 0;
            self.write(ours);
            match round {
                // The other one makes it larger, and smaller.
                0 => self.resize("qemu-img", self.size + (1 << 20) + 512),
                1 => self.resize("strata-img", self.size - (3 << 18)),
                2 => self.copy_bits(),
                _ if self.case.snapshot => self.snapshots(),
                _ => {}
            }
            self.compare(round);
        }
        for (n, bitmap) in std::mem::take(&mut self.bitmaps).iter().enumerate() {
            let program = ["qemu-img", "strata-img"][n % 2];
            let args = ["bitmap", "-f", "qcow2", "--remove", IMAGE, &bitmap.name];
            self.directory.run(program, &args);
        }
        self.compare(0);
        let info = self.directory.run("qemu-img", &["info", IMAGE]);
        assert!(!info.contains("bitmaps"), "{info}");
    }

    fn add(&mut self, program: &str, granularity_bits: u32, recording: bool) {
        let name = format!("{program}-{granularity_bits}");
        let granularity = (1u64 << granularity_bits).to_string();
        let mut args = vec!["bitmap", "-f", "qcow2", "--add", "-g", &granularity];
        if !recording {
            args.push("--disable");
        }
        self.directory
            .run(program, &[&args[..], &[IMAGE, &name]].concat());
        let mut bitmap = Expected {
            name,
            granularity_bits,
            bits: Vec::new(),
            recording,
        };
        bitmap.resize(self.size);
        self.bitmaps.push(bitmap);
    }

    fn write(&mut self, ours: bool) {
        let requests = Request::several(5, self.case, self.size, &mut self.random);
        for bitmap in &mut self.bitmaps {
            requests.iter().for_each(|request| bitmap.record(request));
        }
        if ours {
            with_image(&self.directory, async move |node| {
                for request in requests {
                    request.carry_out(node).await;
                }
            });
        } else {
            let commands: Vec<_> = requests.iter().flat_map(Request::commands).collect();
            self.directory.qemu_io(&commands);
        }
    }

    fn resize(&mut self, program: &str, size: u64) {
        let text = size.to_string();
        let args = ["resize", "-q", "--shrink", "-f", "qcow2", IMAGE, &text];
        self.directory.run(program, &args);
        self.size = size;
        for bitmap in &mut self.bitmaps {
            bitmap.resize(size);
        }
    }

    /// QEMU merges a fine bitmap into the one that does not record, and we clear the fine one.
    fn copy_bits(&mut self) {
        let (fine, still) = (0, GRANULARITIES.len());
        let (from, to) = (self.bitmaps[fine].name.clone(), &self.bitmaps[still].name);
        let args = ["bitmap", "-f", "qcow2", "--merge", &from, IMAGE, to];
        self.directory.run("qemu-img", &args);
        let args = ["bitmap", "-f", "qcow2", "--clear", IMAGE, &from];
        self.directory.run("strata-img", &args);
        let bits = std::mem::take(&mut self.bitmaps[fine].bits);
        let merged = &mut self.bitmaps[still];
        for (n, _) in bits.iter().enumerate().filter(|(_, dirty)| **dirty) {
            merged.bits[n >> (merged.granularity_bits - GRANULARITIES[fine])] = true;
        }
        self.bitmaps[fine].resize(self.size);
    }

    /// A disk that becomes again what it was is another one everywhere.
    fn snapshots(&mut self) {
        for (program, what) in [("strata-img", "-c"), ("qemu-img", "-d"), ("qemu-img", "-c")] {
            self.directory
                .run(program, &["snapshot", what, "one", IMAGE]);
        }
    }

    /// All bitmaps as we see them, and every third as QEMU does, by turns.
    fn compare(&self, round: usize) {
        self.directory.check();
        let ours = our_dirty(&self.directory);
        assert_eq!(ours.len(), self.bitmaps.len());
        for (n, bitmap) in self.bitmaps.iter().enumerate() {
            let expected = bitmap.dirty(self.size);
            let found = ours.iter().find(|(name, _)| *name == bitmap.name);
            let (name, dirty) = found.expect("it is there");
            assert_eq!(*dirty, expected, "our {name}");
            if n % 3 == round % 3 {
                assert_eq!(qemu_dirty(&self.directory, name), expected, "QEMU's {name}");
            }
        }
    }
}
