//! Sequences of requests: the input says how an image is made and what is done to it; every read is
//! compared with plain bytes.

use std::rc::Rc;

use arbitrary::{Arbitrary, Unstructured};
use strata_block::{
    error::IoResult,
    exec::LocalBoxFuture,
    mem::SgList,
    qcow2::{self, Backing, Below, Preallocation},
    qed,
    storage::{SimFile, Storage},
};

use super::{
    image::Image,
    support::{block_on, file, pattern},
};

/// Requests that are carried out, at most.
const MAX_STEPS: usize = 48;

/// Bytes of a disk at most.
const MAX_SIZE: u64 = 256 << 10;

#[derive(Debug, Arbitrary)]
struct Case {
    make: Make,
    /// Of the disk.
    sectors: u16,
    /// Of what lies below it, if anything does.
    below_sectors: Option<u16>,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Make {
    Qcow2 {
        cluster_bits: u8,
        version_2: bool,
        refcount_order: u8,
        lazy: bool,
        preallocated: bool,
        extended_l2: bool,
    },
    Qed {
        cluster_bits: u8,
        table_bits: u8,
    },
}

/// A place on the disk, in sectors.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Place {
    at: u16,
    len: u8,
    /// Extended to whole clusters.
    whole: bool,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Read(Place),
    Write(Place, u8),
    Compressed(u16, u8),
    Zero(Place, bool),
    Discard(Place),
    IfUnallocated(Place),
    Rename(bool),
    Flush,
    Reopen,
}

/// Carries the requests out.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(case) = Case::arbitrary(&mut input) else {
        return;
    };
    block_on(case.play());
}

/// What lies below: a pattern that ends somewhere.
struct Pattern(u64);

impl Pattern {
    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let inside = self.0.saturating_sub(offset).min(len as u64) as usize;
        let mut bytes = pattern(offset, inside, 0x55);
        bytes.resize(len, 0);
        bytes
    }
}

impl Below for Pattern {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        data.copy_from(0, &self.bytes(offset, data.len()));
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// An image under test, and what it should hold.
struct Subject {
    file: Rc<SimFile>,
    image: Image,
    below: Pattern,
    model: Vec<u8>,
}

impl Case {
    async fn play(self) {
        let Some(mut subject) = self.make().await else {
            return;
        };
        for step in self.steps.iter().take(MAX_STEPS) {
            subject.step(step).await;
        }
        subject.verify().await;
    }

    /// An image as the case says; `None` if there is none such.
    async fn make(&self) -> Option<Subject> {
        let size = (u64::from(self.sectors) * 512).min(MAX_SIZE);
        let below = self.below_sectors.map_or(0, |n| u64::from(n) * 512);
        let backing = (below > 0).then(|| Backing {
            name: "below".to_owned(),
            format: Some("raw".to_owned()),
        });
        let file = file(&[]);
        let storage = Storage::Sim(file.clone());
        match self.make {
            Make::Qcow2 {
                cluster_bits,
                version_2,
                refcount_order,
                lazy,
                preallocated,
                extended_l2,
            } => {
                let mut options = qcow2::CreateOptions {
                    size,
                    cluster_size: 512 << (cluster_bits % 8),
                    version: if version_2 { 2 } else { 3 },
                    refcount_bits: 1 << (refcount_order % 7),
                    lazy_refcounts: lazy,
                    extended_l2,
                    preallocation: match preallocated {
                        true => Preallocation::Metadata,
                        false => Preallocation::Off,
                    },
                    ..Default::default()
                };
                options.backing = backing;
                qcow2::create(storage, options).await.ok()?;
            }
            Make::Qed {
                cluster_bits,
                table_bits,
            } => {
                let options = qed::CreateOptions {
                    size,
                    cluster_size: 4096 << (cluster_bits % 5),
                    table_clusters: 1 << (table_bits % 3),
                    backing,
                };
                qed::create(storage, options).await.ok()?;
            }
        }
        let below = Pattern(below);
        let image = Image::open(&file, false).await;
        Some(Subject {
            file,
            image: image.expect("a new image can be opened"),
            model: below.bytes(0, size as usize),
            below,
        })
    }
}

impl Subject {
    async fn step(&mut self, step: &Step) {
        let image = &self.image;
        match *step {
            Step::Read(place) => {
                let (at, len) = self.range(place);
                self.compare(at, len).await;
            }
            Step::Write(place, fill) => {
                let (at, len) = self.range(place);
                let bytes = pattern(at, len, fill);
                let written = image.write(at, bytes.clone(), &self.below).await;
                written.expect("a write succeeds");
                self.model[at as usize..][..len].copy_from_slice(&bytes);
            }
            Step::Compressed(cluster, fill) => self.compressed(cluster, fill).await,
            Step::Zero(place, unmap) => {
                let (at, len) = self.range(place);
                let zeroed = image.write_zeroes(at, len as u64, unmap, &self.below);
                zeroed.await.expect("zeroing succeeds");
                self.model[at as usize..][..len].fill(0);
            }
            Step::Discard(place) => self.discard(place).await,
            Step::IfUnallocated(place) => {
                // As a merge does: what lies below, written here.
                let (at, len) = self.range(place);
                let bytes = self.below.bytes(at, len);
                let copied = image.write_if_unallocated(at, bytes, &self.below);
                copied.await.expect("copying up succeeds");
            }
            Step::Rename(long) => {
                let name = if long {
                    "dir/".repeat(100)
                } else {
                    "b".to_owned()
                };
                let format = Some("raw".to_owned());
                let backing = (!self.below.is_empty()).then_some(Backing { name, format });
                // A name may be too long for a small cluster.
                let _ = image.set_backing(backing).await;
            }
            Step::Flush => image.flush().await.expect("a flush succeeds"),
            Step::Reopen => self.reopen().await,
        }
    }

    /// Writes a whole cluster compressed, where the format knows of that.
    async fn compressed(&mut self, cluster: u16, fill: u8) {
        let (size, cluster_size) = (self.image.size(), self.image.cluster_size());
        let Image::Qcow2(image) = &self.image else {
            return;
        };
        let at = u64::from(cluster) % size.div_ceil(cluster_size).max(1) * cluster_size;
        if at >= size {
            return;
        }
        let bytes = pattern(at, cluster_size.min(size - at) as usize, fill);
        let data = SgList::from_vec(bytes.clone());
        let written = match image.pack(&data).await {
            Some(packed) => image.write_packed(at, packed).await,
            None => image.write(at, data, &self.below).await,
        };
        written.expect("a compressed write succeeds");
        self.model[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }

    /// What is given up reads as zeros or as before.
    async fn discard(&mut self, place: Place) {
        let (at, len) = self.range(place);
        let discarded = self.image.discard(at, len as u64, &self.below).await;
        discarded.expect("a discard succeeds");
        let found = self.read(at, len).await;
        let before = &mut self.model[at as usize..][..len];
        for (found, before) in found.chunks(512).zip(before.chunks(512)) {
            let zero = found == &[0; 512][..found.len()];
            assert!(zero || found == before, "a discard uncovered bytes");
        }
        before.copy_from_slice(&found);
    }

    async fn reopen(&mut self) {
        self.image.close().await.expect("closing succeeds");
        let image = Image::open(&self.file, false).await;
        self.image = image.expect("an image that was closed can be opened");
    }

    /// All bytes and, for qcow2, all refcounts are right.
    async fn verify(&mut self) {
        self.compare(0, self.model.len()).await;
        self.reopen().await;
        self.compare(0, self.model.len()).await;
        if let Image::Qcow2(image) = &self.image {
            let report = image.check().await.expect("checkable");
            assert!(report.is_clean(), "{:?}", report.lines);
        }
    }

    async fn compare(&self, at: u64, len: usize) {
        let found = self.read(at, len).await;
        let expected = &self.model[at as usize..][..len];
        if found != expected {
            let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
            panic!("the wrong byte at {at} + {wrong:?}");
        }
    }

    async fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let found = self.image.read(at, len, &self.below).await;
        found.expect("a read succeeds")
    }

    /// The bytes of a place, cut where the disk ends.
    fn range(&self, place: Place) -> (u64, usize) {
        let size = self.image.size();
        if size == 0 {
            return (0, 0);
        }
        let mut start = u64::from(place.at) * 512 % size;
        let mut end = (start + u64::from(place.len) * 512).min(size);
        if place.whole {
            let cluster = self.image.cluster_size();
            start -= start % cluster;
            end = end.next_multiple_of(cluster).min(size);
        }
        (start, (end - start) as usize)
    }
}
