//! A layer for tests, and small helpers.

use std::{future::Future, path::Path, process::Command, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, Queue, mem::SgList, random};
use strata_storage::{FileOptions, FileStorage, SimFile, Storage, error::IoResult};

use crate::{
    below::{Below, Nothing},
    bitmap::{DirtyBitmap, Recorded},
    extent::ExtentKind,
    qcow2::{CreateOptions, Damaged, OpenOptions, Qcow2, create},
};

/// A seeded generator.
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        random::next(&mut self.0) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&random::next(&mut self.0).to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// Raw bytes as the lowest layer; zeros behind their end.
pub struct RawBytes(pub Vec<u8>);

impl Below for RawBytes {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        let start = self.0.len().min(offset as usize);
        let end = self.0.len().min(start + data.len());
        data.fill(0, data.len(), 0);
        data.copy_from(0, &self.0[start..end]);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// An image and what lies below it.
pub struct Layer {
    pub image: Qcow2,
    pub below: Rc<dyn Below>,
}

impl Layer {
    pub async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _pin = self.image.pin();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let rest = data.len() - done;
            let extent = self.image.extent(at, rest as u64).await?;
            let part = data.slice(done, extent.len as usize);
            done += part.len();
            match extent.kind {
                ExtentKind::Data { host_offset } => {
                    self.image.data_storage().read(host_offset, part).await?;
                }
                ExtentKind::Compressed => self.image.read_compressed(at, part).await?,
                ExtentKind::Zero => part.fill(0, part.len(), 0),
                ExtentKind::Unallocated => self.below.read_below(at, part).await?,
            }
        }
        Ok(())
    }

    pub async fn read_vec(&self, offset: u64, len: usize) -> IoResult<Vec<u8>> {
        let data = SgList::zeroed(len);
        self.read(offset, data.clone()).await?;
        Ok(data.to_vec())
    }

    pub async fn read_all(&self) -> Vec<u8> {
        self.read_vec(0, self.image.virtual_size() as usize)
            .await
            .unwrap()
    }

    pub async fn write(&self, offset: u64, bytes: Vec<u8>) -> IoResult<()> {
        let _recorded = self.record(offset, bytes.len() as u64);
        self.image
            .write(offset, SgList::from_vec(bytes), &*self.below)
            .await
    }

    /// Applies a snapshot, and records that all has changed.
    pub async fn apply_snapshot(&self, id: &str) {
        self.image.apply_snapshot(id).await.unwrap();
        drop(self.record(0, self.image.virtual_size()));
    }

    /// Adds a persistent bitmap of `size` bytes; the file knows of it already.
    pub fn add_bitmap(&self, name: &str, granularity_bits: u32, size: u64) {
        let bitmaps = self.image.bitmaps();
        let name = bitmaps.reserve(name).unwrap();
        bitmaps.add(DirtyBitmap::new(name, granularity_bits, size, true));
    }

    /// Records a change in the bitmaps when it has been made, which is not for the format to do.
    pub fn record(&self, offset: u64, len: u64) -> Recorded<'_> {
        self.image.bitmaps().record(offset, len)
    }
}

/// As something that lies below another layer.
impl Below for Layer {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        let inside = self.image.virtual_size().saturating_sub(offset) as usize;
        let inside = inside.min(data.len());
        data.fill(inside, data.len() - inside, 0);
        Box::pin(async move { self.read(offset, data.slice(0, inside)).await })
    }
}

pub fn nothing() -> Rc<dyn Below> {
    Rc::new(Nothing)
}

pub fn sim(seed: u64) -> Rc<SimFile> {
    sim_with(Vec::new(), seed)
}

pub fn sim_with(bytes: Vec<u8>, seed: u64) -> Rc<SimFile> {
    Rc::new(SimFile::new("sim.qcow2", bytes, seed))
}

pub const SMALL_CACHE: OpenOptions = OpenOptions {
    read_only: false,
    cache_bytes: 0,
    discard: true,
    damaged: Damaged::Refused,
};

/// Makes an image in a simulated file and opens it.
pub async fn new_layer(
    file: &Rc<SimFile>,
    options: CreateOptions,
    open: OpenOptions,
    below: Rc<dyn Below>,
) -> Rc<Layer> {
    create(Storage::Sim(file.clone()), options).await.unwrap();
    open_layer(file, open, below).await
}

pub async fn open_layer(file: &Rc<SimFile>, open: OpenOptions, below: Rc<dyn Below>) -> Rc<Layer> {
    let image = Qcow2::open(Storage::Sim(file.clone()), open).await.unwrap();
    Rc::new(Layer { image, below })
}

/// As [`open_layer`], with an external data file.
pub async fn open_external(
    file: &Rc<SimFile>,
    data: &Rc<SimFile>,
    open: OpenOptions,
    below: Rc<dyn Below>,
) -> Rc<Layer> {
    let (file, data) = (Storage::Sim(file.clone()), Storage::Sim(data.clone()));
    let image = Qcow2::open_with_data(file, data, open).await.unwrap();
    Rc::new(Layer { image, below })
}

/// Runs futures side by side until all have ended.
pub async fn together(exec: &Rc<Executor>, futures: Vec<LocalBoxFuture<'static, ()>>) {
    let left = Rc::new(std::cell::Cell::new(futures.len()));
    let ended = Rc::new(strata_exec::sync::WaitQueue::default());
    for future in futures {
        let (left, ended) = (left.clone(), ended.clone());
        exec.spawn(Queue::Guest, async move {
            future.await;
            left.set(left.get() - 1);
            ended.wake_all();
        });
    }
    while left.get() > 0 {
        ended.wait().await;
    }
}

/// Runs a test with one seed, which is shown if it fails.
pub fn with_seed<F: Future<Output = ()> + 'static>(
    seed: u64,
    test: impl FnOnce(Rc<Executor>, u64) -> F,
) {
    struct Show(u64);
    impl Drop for Show {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with seed {}", self.0);
            }
        }
    }
    let _show = Show(seed);
    let exec = Executor::seeded(seed).unwrap();
    exec.block_on(test(exec.clone(), seed));
}

/// Opens a file of the host.
pub fn host_file(exec: &Executor, path: &Path, read_only: bool) -> Storage {
    let options = FileOptions {
        read_only,
        no_flush: true,
        ..FileOptions::default()
    };
    Storage::File(Rc::new(FileStorage::open(exec, path, options).unwrap()))
}

/// Runs a command and returns its standard output; panics unless it succeeds.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of an image that `qemu-img convert -c` makes of `content`.
pub fn qemu_compressed(content: &[u8], cluster: u64, kind: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (raw, image) = (path("content.raw"), path("image.qcow2"));
    std::fs::write(&raw, content).unwrap();
    let options = format!("compression_type={kind},cluster_size={cluster}");
    let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
    run("qemu-img", &[&args[..], &[&raw, &image]].concat());
    std::fs::read(&image).unwrap()
}

/// `qemu-img check` finds nothing at all, not even a leak.
pub fn assert_clean(path: &Path) {
    let path = path.to_str().unwrap();
    let out = run("qemu-img", &["check", "-f", "qcow2", path]);
    assert!(out.contains("No errors were found"), "{out}");
}

/// Writes a simulated file's bytes to the host and has them checked; leaks are allowed with
/// `leaks`.
pub fn check_bytes(bytes: &[u8], leaks: bool) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("top.qcow2");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(directory.path().join("base.raw"), [0; 512]).unwrap();
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", path.to_str().unwrap()])
        .output()
        .unwrap();
    let code = output.status.code();
    assert!(
        code == Some(0) || leaks && code == Some(3),
        "qemu-img check: {code:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
