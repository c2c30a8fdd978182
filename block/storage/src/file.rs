//! A plain file of the host.
//!
//! A read is tried at once with `RWF_NOWAIT`: what lies in the page cache is copied on this
//! thread, straight into the request's memory; the rest is read on a helper thread. A write goes to
//! the page cache on this thread, except while a flush of the same file is under way: then it could
//! wait for the flush inside the kernel, so it goes to a helper too. Flushes, hole punching and
//! truncation always do. With `direct` reads and writes do, too ([`direct`]). With
//! [`Aio::IoUring`] the executor's ring takes the place of the helpers ([`ring`]), except for what
//! the kernel has no call for there.

mod open;
mod space;

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use strata_exec::{
    Helpers,
    mem::{SgList, to_usize},
    ring::Ring,
    sync::WaitQueue,
    yield_now,
};

use super::{
    Access, FileExtent, FileHints, Identity, direct,
    lost::Lost,
    ring, size_limit,
    vectored::{self, Way},
    watch::Watch,
};
use crate::error::{IoError, IoResult, NoRoom};

/// Bytes that are copied on the device thread in one go.
const MAX_PIECE: usize = 1 << 20;

/// What carries out the calls that would block the executor's thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Aio {
    /// Helper threads.
    #[default]
    Threads,
    /// The executor's ring; helper threads where the host has none.
    IoUring,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Writes are refused.
    pub read_only: bool,
    /// Flushes are ignored (`cache=unsafe`): a crash of the host may lose everything.
    pub no_flush: bool,
    /// Others may write to it meanwhile (`-U`): no locks are taken. Only with `read_only`.
    pub force_share: bool,
    /// What is read and written goes past the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// What carries out its calls.
    pub aio: Aio,
}

/// A file of the host, as a [`super::Storage`].
pub struct FileStorage {
    handles: RefCell<Handles>,
    path: PathBuf,
    options: FileOptions,
    /// What it is locked for.
    access: Cell<Access>,
    len: Cell<u64>,
    /// It is a device of the host, whose length nobody changes.
    is_device: bool,
    helpers: Rc<Helpers>,
    ring: Option<Rc<Ring>>,
    /// Used only with `direct`.
    turns: direct::Turns,
    nowait_works: Cell<bool>,
    flush: Flush,
    lost: Lost,
}

/// The file as it is open: others take their place when it is to be written after all.
struct Handles {
    file: Arc<File>,
    /// The same, for use past the page cache, if it is used so.
    direct: Option<Arc<File>>,
    /// `None` where nothing is written, or the host cannot open the file again.
    watch: Option<Arc<Watch>>,
    /// Writes are refused.
    read_only: bool,
}

impl Handles {
    /// The one of the open files that holds the locks: that which the kernel may be writing to
    /// without a thread of ours. So when this process dies the locks end after such a write, and
    /// nobody opens the file before it.
    fn locked(&self) -> &Arc<File> {
        self.direct.as_ref().unwrap_or(&self.file)
    }

    fn new(file: File, direct: bool, read_only: bool) -> io::Result<Self> {
        let direct = if direct {
            Some(Arc::new(direct::reopen(&file, read_only)?))
        } else {
            None
        };
        let watch = if read_only {
            None
        } else {
            Watch::open(&file).map(Arc::new)
        };
        Ok(Self {
            direct,
            watch,
            read_only,
            file: Arc::new(file),
        })
    }
}

/// Flushes that overlap share one fdatasync where they may.
#[derive(Default)]
struct Flush {
    /// An fdatasync is under way.
    running: Cell<bool>,
    /// Number of the next fdatasync to start.
    next: Cell<u64>,
    /// Result of the last one to end, and its number.
    last: RefCell<Option<(u64, IoResult<()>)>>,
    ended: WaitQueue,
}

impl FileStorage {
    /// Tells the file system how the file, which is empty, is to be stored.
    pub(super) fn give_hints(&self, hints: FileHints) {
        hints.give(&self.handles.borrow().file);
    }

    pub(super) fn helpers(&self) -> &Helpers {
        &self.helpers
    }

    pub(super) async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        let mut done = 0;
        while let Some(piece) = next_piece(&data, done).await {
            let len = piece.len();
            self.read_piece(offset + done as u64, piece).await?;
            done += len;
        }
        Ok(())
    }

    async fn read_piece(&self, offset: u64, data: SgList) -> IoResult<()> {
        let failed = |error| self.error("read", offset, error);
        let direct = self.handles.borrow().direct.clone();
        if let Some(file) = direct {
            return self.read_direct(file, offset, data).await.map_err(failed);
        }
        let (mut offset, mut data) = (offset, data);
        if self.nowait_works.get() {
            let read = vectored::read(&self.handles.borrow().file, offset, &data, Way::Nowait);
            match read {
                Ok(progress) => match progress.rest(offset, &data) {
                    None => return Ok(()),
                    Some(rest) => (offset, data) = rest,
                },
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.nowait_works.set(false);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let file = self.file();
        if let Some(ring) = &self.ring {
            let read = ring::read(ring, &file, offset, &data, Way::Cached).await;
            match read.map_err(failed)?.rest(offset, &data) {
                None => return Ok(()),
                Some(rest) => (offset, data) = rest,
            }
        }
        let work = move || {
            let read = vectored::read(&file, offset, &data, Way::Cached);
            read.map(|progress| progress.rest(offset, &data))
        };
        self.helpers.run(work).await.map(drop).map_err(failed)
    }

    async fn read_direct(&self, file: Arc<File>, offset: u64, data: SgList) -> io::Result<()> {
        if let Some(ring) = &self.ring {
            let aligned = direct::is_aligned(offset, &data);
            let (start, target) = if aligned {
                (offset, data.clone())
            } else {
                direct::blocks_around(offset, &data)?
            };
            let read = ring::read(ring, &file, start, &target, Way::Direct).await?;
            if read.rest(start, &target).is_none() {
                if !aligned {
                    let from = to_usize(offset - start);
                    data.copy_all_from(&target.slice(from, data.len()));
                }
                return Ok(());
            }
        }
        let work = move || direct::read(&file, offset, &data);
        self.helpers.run(work).await
    }

    async fn write_direct(&self, file: Arc<File>, offset: u64, data: SgList) -> io::Result<()> {
        if let Some(ring) = &self.ring {
            let source = if direct::is_aligned(offset, &data) {
                data.clone()
            } else {
                direct::aligned_copy(&data)
            };
            let written = ring::write(ring, &file, offset, &source).await?;
            if written.rest(offset, &source).is_none() {
                return Ok(());
            }
        }
        // All of it: what is left may begin within a block.
        let work = move || direct::write(&file, offset, &data);
        self.helpers.run(work).await
    }

    pub(super) async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.check_writable()?;
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(IoError::OutOfRange)?;
        let mut done = 0;
        while let Some(piece) = next_piece(&data, done).await {
            let len = piece.len();
            self.write_piece(offset + done as u64, piece).await?;
            done += len;
        }
        self.grown_to(end);
        Ok(())
    }

    async fn write_piece(&self, offset: u64, data: SgList) -> IoResult<()> {
        let direct = self.handles.borrow().direct.clone();
        let Some(file) = direct else {
            return self.write_cached(offset, data).await;
        };
        let whole = direct::whole_blocks(offset, &data);
        for part in [0..whole.start, whole.end..data.len()] {
            if !part.is_empty() {
                let at = offset + part.start as u64;
                let _turn = self.turns.through_page_cache().await;
                self.write_cached(at, data.slice(part.start, part.len()))
                    .await?;
            }
        }
        if whole.is_empty() {
            return Ok(());
        }
        let at = offset + whole.start as u64;
        let data = data.slice(whole.start, whole.len());
        let _turn = self.turns.past_page_cache().await;
        let written = self.write_direct(file, at, data).await;
        written.map_err(|error| self.error("write", at, error))
    }

    async fn write_cached(&self, offset: u64, data: SgList) -> IoResult<()> {
        let failed = |error| self.error("write", offset, error);
        if self.flush.running.get() {
            let (file, mut offset, mut data) = (self.file(), offset, data);
            if let Some(ring) = &self.ring {
                let written = ring::write(ring, &file, offset, &data).await;
                match written.map_err(failed)?.rest(offset, &data) {
                    None => return Ok(()),
                    Some(rest) => (offset, data) = rest,
                }
            }
            let work = move || vectored::write(&file, offset, &data);
            self.helpers.run(work).await.map_err(failed)
        } else {
            vectored::write(&self.handles.borrow().file, offset, &data).map_err(failed)
        }
    }

    /// A caller joins an fdatasync only if that has not started yet: one under way may have passed
    /// over the caller's pages already. An fdatasync that has failed is the last one.
    pub(super) async fn flush(&self) -> IoResult<()> {
        if self.is_read_only() {
            return Ok(());
        }
        if self.options.no_flush {
            return self.look_for_losses();
        }
        let wanted = self.flush.next.get();
        while self.flush.running.get() {
            self.flush.ended.wait().await;
            if let Some((number, result)) = &*self.flush.last.borrow()
                && *number >= wanted
            {
                return result.clone();
            }
        }
        self.lost.check()?;
        self.flush.running.set(true);
        let number = self.flush.next.get();
        self.flush.next.set(number + 1);
        let (file, watch) = (self.file(), self.watch());
        let result = match self.synced(file).await {
            Ok(()) => watch.map_or(Ok(()), |watch| watch.ask()),
            error => error,
        };
        let result = self.lost.note(&self.path, result);
        self.flush.running.set(false);
        *self.flush.last.borrow_mut() = Some((number, result.clone()));
        self.flush.ended.wake_all();
        result
    }

    async fn synced(&self, file: Arc<File>) -> io::Result<()> {
        if let Some(ring) = &self.ring
            && ring::sync(ring, &file).await?
        {
            return Ok(());
        }
        self.helpers.run(move || file.sync_data()).await
    }

    /// An error makes the next flush fail.
    pub(super) async fn write_back(&self) {
        // Where nobody watches, the call would take an error away from an fdatasync that is under
        // way.
        if self.watch().is_none() {
            return;
        }
        let file = self.file();
        let result = self.helpers.run(move || vectored::write_back(&file)).await;
        // It has been logged, and the next flush reports it.
        let _ = self.lost.note(&self.path, result);
    }

    /// As [`FileStorage::write_back`], but for what is written now only.
    pub(super) async fn start_write_back(&self) {
        let file = self.file();
        let start = move || vectored::start_write_back(&file);
        let result = self.helpers.run(start).await;
        let _ = self.lost.note(&self.path, result);
    }

    /// What the host has met so far of its own accord.
    fn look_for_losses(&self) -> IoResult<()> {
        let result = self.watch().map_or(Ok(()), |watch| watch.ask());
        self.lost.note(&self.path, result)
    }

    pub(super) async fn set_len(&self, len: u64) -> IoResult<()> {
        self.check_writable()?;
        if self.is_device {
            return self.check_fixed_len(len);
        }
        let file = self.file();
        let _turn = self.turn_through_page_cache().await;
        let result = self.helpers.run(move || file.set_len(len)).await;
        result.map_err(|error| self.error("resize", len, error))?;
        self.len.set(len);
        Ok(())
    }

    fn check_fixed_len(&self, len: u64) -> IoResult<()> {
        if len == self.len() {
            return Ok(());
        }
        Err(IoError::Unsupported {
            file: self.path.clone(),
            what: format!(
                "changing the size of a device, which has {} bytes,",
                self.len()
            ),
        })
    }

    /// Whether it is a device, whose length nobody changes.
    pub(super) fn is_device(&self) -> bool {
        self.is_device
    }

    /// Length of the file in bytes, as far as this process knows.
    pub fn len(&self) -> u64 {
        self.len.get()
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn extent(&self, offset: u64, len: u64) -> FileExtent {
        let hole = FileExtent { len, data: false };
        let until = |next: u64| next.saturating_sub(offset).clamp(1, len.max(1));
        if offset >= self.len() {
            return hole;
        }
        let file = self.file();
        match seek(&*file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => FileExtent {
                len: until(data),
                data: false,
            },
            Ok(_) => {
                let end = seek(&*file, SeekFrom::Hole(offset)).unwrap_or(u64::MAX);
                FileExtent {
                    len: until(end),
                    data: true,
                }
            }
            // No data from here to the end of the file.
            Err(Errno::NXIO) => hole,
            // A file system that does not know its holes: all of it may be data.
            Err(_) => FileExtent { len, data: true },
        }
    }

    pub(super) fn allocated_bytes(&self) -> Option<u64> {
        let metadata = self.file().metadata();
        metadata.ok().map(|meta| meta.blocks().saturating_mul(512))
    }

    /// The file's name as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.handles.borrow().read_only
    }

    /// What the kernel works on for a write past the page cache.
    #[cfg(test)]
    pub(super) fn direct_file(&self) -> Option<Arc<File>> {
        self.handles.borrow().direct.clone()
    }

    fn file(&self) -> Arc<File> {
        self.handles.borrow().file.clone()
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        self.handles.borrow().watch.clone()
    }

    /// What is open, under whatever name.
    ///
    /// # Errors
    /// The host's error.
    pub fn identity(&self) -> io::Result<Identity> {
        self.file().metadata().map(|meta| Identity::from(&meta))
    }

    fn grown_to(&self, end: u64) {
        self.len.set(self.len.get().max(end));
    }

    fn check_writable(&self) -> IoResult<()> {
        if self.is_read_only() {
            Err(IoError::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn error(&self, what: &'static str, offset: u64, source: io::Error) -> IoError {
        let file = self.path.clone();
        let why = match source.kind() {
            io::ErrorKind::StorageFull if self.is_device => NoRoom::Device,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NoRoom::Full,
            io::ErrorKind::FileTooLarge => size_limit::in_the_way(),
            _ => {
                return IoError::Host {
                    file,
                    what,
                    offset,
                    source: Arc::new(source),
                };
            }
        };
        IoError::NoSpace { file, why }
    }
}

impl Drop for FileStorage {
    /// A helper thread may have the file open for a moment longer: the locks end here.
    fn drop(&mut self) {
        // Giving locks up asks for none.
        let _ = self.lock(Access::None);
    }
}

/// The next part of a request, of [`MAX_PIECE`] at most; others may run between two of them.
async fn next_piece(data: &SgList, done: usize) -> Option<SgList> {
    let len = (data.len() - done).min(MAX_PIECE);
    if len == 0 {
        return None;
    }
    if done != 0 {
        yield_now().await;
    }
    Some(data.slice(done, len))
}

#[cfg(test)]
mod tests;
