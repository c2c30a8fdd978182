//! Sequences of requests, several at a time: the input says how an image is made and what is done
//! to it; every read is compared with plain bytes.

use std::{cell::RefCell, ops::Range, rc::Rc};

use arbitrary::{Arbitrary, Unstructured};
use strata_exec::{Executor, LocalBoxFuture, Queue, mem::SgList, yield_now};
use strata_format::{
    backing::Backing,
    below::Below,
    qcow2::{self, DataFile, Preallocation},
    qed,
};
use strata_storage::{Storage, error::IoResult};

use super::{
    image::Image,
    support::{Files, files, pattern},
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
    /// In what order tasks run.
    seed: u8,
    /// Requests at a time, less one.
    width: u8,
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
        /// Data lies in a file of its own, which may be raw.
        data_file: Option<bool>,
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
    Resize(u16),
    Flush,
    Reopen,
}

/// Carries the requests out.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(case) = Case::arbitrary(&mut input) else {
        return;
    };
    let exec = Executor::seeded(case.seed.into()).expect("an executor can be had");
    let inner = exec.clone();
    exec.block_on(async move { case.play(&inner).await });
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

    fn visible_len(&self) -> u64 {
        self.0
    }
}

/// An image under test, and what it should hold.
struct Subject {
    image: Image,
    below: Pattern,
    model: RefCell<Vec<u8>>,
}

impl Case {
    async fn play(self, exec: &Executor) {
        let Some((files, mut subject)) = self.make().await else {
            return;
        };
        let mut group = Group::default();
        for step in self.steps.into_iter().take(MAX_STEPS) {
            let range = step.range(&subject.image);
            if group.futures.len() > usize::from(self.width % 6) || group.overlaps(&range) {
                group.finish(exec).await;
            }
            let alone = matches!(step, Step::Reopen | Step::Rename(_) | Step::Resize(_));
            if alone {
                group.finish(exec).await;
            }
            if let Step::Reopen = step {
                subject = reopen(&files, subject).await;
                continue;
            }
            group.ranges.push(range);
            group
                .futures
                .push(Box::pin(subject.clone().carry_out(step)));
            if alone {
                group.finish(exec).await;
            }
        }
        group.finish(exec).await;
        verify(&files, subject).await;
    }

    /// An image as the case says; `None` if there is none such.
    async fn make(&self) -> Option<(Files, Rc<Subject>)> {
        let size = (u64::from(self.sectors) * 512).min(MAX_SIZE);
        let below = self.below_sectors.map_or(0, |n| u64::from(n) * 512);
        let backing = (below > 0).then(|| Backing {
            name: "below".into(),
            format: Some("raw".to_owned()),
        });
        let files = files(&[]);
        let storage = Storage::Sim(files.image.clone());
        match self.make {
            Make::Qcow2 {
                cluster_bits,
                version_2,
                refcount_order,
                lazy,
                preallocated,
                extended_l2,
                data_file,
            } => {
                let mut options = qcow2::CreateOptions {
                    size,
                    cluster_size: 512 << (cluster_bits % 8),
                    version: if version_2 { 2 } else { 3 },
                    refcount_bits: 1 << (refcount_order % 7),
                    lazy_refcounts: lazy,
                    extended_l2,
                    preallocation: if preallocated {
                        Preallocation::Metadata
                    } else {
                        Preallocation::Off
                    },
                    ..Default::default()
                };
                options.backing = backing;
                options.data_file = data_file.map(|raw| DataFile {
                    name: "data".into(),
                    raw,
                });
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
        let image = Image::open(&files, false).await;
        let subject = Subject {
            image: image.expect("a new image can be opened"),
            model: RefCell::new(below.bytes(0, size as usize)),
            below,
        };
        Some((files, Rc::new(subject)))
    }
}

/// Requests under way together.
#[derive(Default)]
struct Group {
    ranges: Vec<Range<u64>>,
    futures: Vec<LocalBoxFuture<'static, ()>>,
}

impl Group {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        self.ranges.iter().any(overlaps)
    }

    /// Carries them out side by side.
    async fn finish(&mut self, exec: &Executor) {
        // Each holds it until it ends.
        let under_way = Rc::new(());
        for future in std::mem::take(&mut self.futures) {
            let held = under_way.clone();
            exec.spawn(Queue::Guest, async move {
                future.await;
                drop(held);
            });
        }
        self.ranges.clear();
        while Rc::strong_count(&under_way) > 1 {
            yield_now().await;
        }
    }
}

impl Step {
    /// What nothing else may touch meanwhile: whole clusters, where the block layer's callers have
    /// to see to that.
    fn range(&self, image: &Image) -> Range<u64> {
        let (size, cluster) = (image.size(), image.cluster_size());
        let whole = |range: Range<u64>| {
            range.start - range.start % cluster..range.end.next_multiple_of(cluster)
        };
        match *self {
            Self::Read(place) | Self::Write(place, _) | Self::Zero(place, false) => {
                place.range(image)
            }
            Self::Zero(place, true) | Self::Discard(place) | Self::IfUnallocated(place) => {
                whole(place.range(image))
            }
            Self::Compressed(number, _) => {
                let at = u64::from(number) % size.div_ceil(cluster).max(1) * cluster;
                at.min(size)..(at + cluster).min(size)
            }
            Self::Rename(_) | Self::Resize(_) | Self::Flush | Self::Reopen => 0..0,
        }
    }
}

impl Place {
    /// Its bytes, cut where the disk ends.
    fn range(self, image: &Image) -> Range<u64> {
        let size = image.size();
        if size == 0 {
            return 0..0;
        }
        let mut start = u64::from(self.at) * 512 % size;
        let mut end = (start + u64::from(self.len) * 512).min(size);
        if self.whole {
            let cluster = image.cluster_size();
            start -= start % cluster;
            end = end.next_multiple_of(cluster).min(size);
        }
        start..end
    }
}

impl Subject {
    async fn carry_out(self: Rc<Self>, step: Step) {
        let image = &self.image;
        match step {
            Step::Read(place) => self.compare(place.range(image)).await,
            Step::Write(place, fill) => self.write(place.range(image), fill).await,
            Step::Compressed(_, fill) => self.compressed(step.range(image), fill).await,
            Step::Zero(place, unmap) => {
                let range = place.range(image);
                let len = range.end - range.start;
                let zeroed = image.write_zeroes(range.start, len, unmap, &self.below);
                zeroed.await.expect("zeroing succeeds");
                self.model.borrow_mut()[index(range)].fill(0);
            }
            Step::Discard(place) => self.discard(place.range(image)).await,
            Step::IfUnallocated(place) => {
                // As a merge does: what lies below, written here.
                let range = place.range(image);
                let len = (range.end - range.start) as usize;
                let bytes = self.below.bytes(range.start, len);
                let copied = image.write_if_unallocated(range.start, bytes, &self.below);
                copied.await.expect("copying up succeeds");
            }
            Step::Rename(long) => self.rename(long).await,
            Step::Resize(sectors) => self.resize(sectors).await,
            Step::Flush => image.flush().await.expect("a flush succeeds"),
            Step::Reopen => unreachable!("not a request"),
        }
    }

    async fn write(&self, range: Range<u64>, fill: u8) {
        let bytes = pattern(range.start, (range.end - range.start) as usize, fill);
        let written = self.image.write(range.start, bytes.clone(), &self.below);
        written.await.expect("a write succeeds");
        self.model.borrow_mut()[index(range)].copy_from_slice(&bytes);
    }

    /// Writes a whole cluster compressed, where the format knows of that.
    async fn compressed(&self, range: Range<u64>, fill: u8) {
        let Image::Qcow2(image) = &self.image else {
            return;
        };
        if image.data_file().is_some() {
            return; // Compressed clusters cannot lie there.
        }
        let bytes = pattern(range.start, (range.end - range.start) as usize, fill);
        if bytes.is_empty() {
            return;
        }
        let data = SgList::from_vec(bytes.clone());
        let written = match image.pack(&data).await {
            Some(packed) => image.write_packed(range.start, packed).await,
            None => image.write(range.start, data, &self.below).await,
        };
        written.expect("a compressed write succeeds");
        self.model.borrow_mut()[index(range)].copy_from_slice(&bytes);
    }

    /// What is given up reads as zeros or as before.
    async fn discard(&self, range: Range<u64>) {
        let len = range.end - range.start;
        let discarded = self.image.discard(range.start, len, &self.below).await;
        discarded.expect("a discard succeeds");
        let found = self.read(range.clone()).await;
        let mut model = self.model.borrow_mut();
        let before = &mut model[index(range)];
        for (found, before) in found.chunks(512).zip(before.chunks(512)) {
            let zero = found == &[0; 512][..found.len()];
            assert!(zero || found == before, "a discard uncovered bytes");
        }
        before.copy_from_slice(&found);
    }

    async fn rename(&self, long: bool) {
        let name = if long {
            "dir/".repeat(100)
        } else {
            "b".to_owned()
        };
        let format = Some("raw".to_owned());
        let backing = (!self.below.is_empty()).then_some(Backing {
            name: name.into(),
            format,
        });
        // A name may be too long for a small cluster.
        let _ = self.image.set_backing(backing).await;
    }

    /// What is added reads as zeros, whatever lies below.
    async fn resize(&self, sectors: u16) {
        let size = (u64::from(sectors) * 512).min(MAX_SIZE);
        let resized = self.image.resize(size, &self.below).await;
        // QED cannot shrink, and an image with a data file keeps its size.
        match (resized, &self.image) {
            (Ok(()), _) => self.model.borrow_mut().resize(size as usize, 0),
            (Err(_), Image::Qed(_)) => {}
            (Err(_), Image::Qcow2(image)) if image.data_file().is_some() => {}
            (Err(error), Image::Qcow2(_)) => panic!("resizing: {error}"),
        }
        assert_eq!(self.image.size(), self.model.borrow().len() as u64);
    }

    async fn compare(&self, range: Range<u64>) {
        let found = self.read(range.clone()).await;
        let (at, model) = (range.start, self.model.borrow());
        let expected = &model[index(range)];
        if found != expected {
            let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
            panic!("the wrong byte at {at} + {wrong:?}");
        }
    }

    async fn read(&self, range: Range<u64>) -> Vec<u8> {
        let len = (range.end - range.start) as usize;
        let found = self.image.read(range.start, len, &self.below).await;
        found.expect("a read succeeds")
    }
}

/// Closes an image that nobody uses any more, and opens it again.
async fn reopen(files: &Files, subject: Rc<Subject>) -> Rc<Subject> {
    subject.image.close().await.expect("closing succeeds");
    let image = Image::open(files, false).await;
    Rc::new(Subject {
        image: image.expect("an image that was closed can be opened"),
        below: Pattern(subject.below.0),
        model: RefCell::new(subject.model.take()),
    })
}

/// All bytes and, for qcow2, all refcounts are right.
async fn verify(files: &Files, subject: Rc<Subject>) {
    let all = 0..subject.image.size();
    subject.compare(all.clone()).await;
    let subject = reopen(files, subject).await;
    subject.compare(all).await;
    if let Image::Qcow2(image) = &subject.image {
        if image.data_file().is_some_and(|file| file.raw) {
            let mut raw = files.data.bytes();
            raw.resize(subject.model.borrow().len(), 0);
            assert!(raw == *subject.model.borrow(), "the raw data file differs");
        }
        let report = image.check().await.expect("checkable");
        assert!(report.is_clean(), "{:?}", report.lines);
    }
}

fn index(range: Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
