//! A simulated file with a volatile and a durable side.
//!
//! Every call takes effect at a moment that a seed chooses, after other tasks may have run, and
//! ends later still. A crash keeps what was durable and an arbitrary part of what was done since,
//! torn at 512 bytes. Calls can be made to fail ([`Faults`]), and the disk to be full
//! ([`SimFile::set_room`]).
//!
//! As with Linux, what cannot be brought to disk is forgotten, and every open file reports that
//! once: by the flush that failed, or by the first one after the write-back that did, for whatever
//! reason.

mod change;
mod content;
mod directory;
mod faults;

use std::{
    cell::{Cell, RefCell},
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use change::Change;
pub use content::Content;
pub use directory::SimDirectory;
pub use faults::Faults;
use faults::{Call, Outcome};

use strata_exec::{
    mem::{SgList, to_usize},
    random, yield_now,
};

use super::{FileExtent, Identity, lost::Lost};
use crate::error::{Error, IoError, IoResult, NoRoom, Result};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// An open simulated file, as a [`super::Storage`].
pub struct SimFile {
    inode: Rc<Inode>,
    /// Losses that this open file has reported.
    reported: Cell<u64>,
    lost: Lost,
}

/// The file, for all who have it open.
struct Inode {
    path: PathBuf,
    /// No other file of this process has it.
    number: u64,
    random: Cell<u64>,
    state: RefCell<State>,
    /// Writes, flushes and length changes that still succeed; all later ones fail.
    budget: Cell<u64>,
    calls: Cell<u64>,
    faults: Cell<Faults>,
    flushes: Cell<u64>,
    losses: Cell<Losses>,
    /// Blocks of 4 KiB that it can still take or grow by.
    room: Cell<u64>,
    /// Flushes until the one that finds no room.
    full_at_flush: Cell<Option<u64>>,
    /// It cannot be opened for writing.
    write_protected: Cell<bool>,
}

/// What could not be brought to disk.
#[derive(Clone, Copy, Default)]
struct Losses {
    /// How often.
    count: u64,
    /// The last error.
    error: i32,
    /// The last one has been reported.
    reported: bool,
}

#[derive(Default)]
struct State {
    durable: Content,
    volatile: Content,
    /// What was done since the last flush, in order.
    unflushed: Vec<Change>,
    /// Changes that were unflushed once and are not any more.
    settled: usize,
}

impl SimFile {
    /// A file that holds `bytes`, all durable.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>, seed: u64) -> Self {
        Self::with_content(path, Content::from(&bytes[..]), seed)
    }

    /// A file that holds `content`, all durable.
    pub fn with_content(path: impl Into<PathBuf>, content: Content, seed: u64) -> Self {
        let state = State {
            durable: content.clone(),
            volatile: content,
            ..State::default()
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let inode = Inode {
            path: path.into(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            random: Cell::new(seed),
            state: RefCell::new(state),
            budget: Cell::new(u64::MAX),
            calls: Cell::new(0),
            faults: Cell::default(),
            flushes: Cell::new(0),
            losses: Cell::default(),
            room: Cell::new(u64::MAX),
            full_at_flush: Cell::new(None),
            write_protected: Cell::new(false),
        };
        Self::open(Rc::new(inode))
    }

    /// The same file, opened once more: it reports what is lost from now on, and what was
    /// lost before and has not been reported.
    pub(crate) fn open_again(&self) -> Self {
        Self::open(self.inode.clone())
    }

    fn open(inode: Rc<Inode>) -> Self {
        Self {
            reported: Cell::new(inode.losses.get().known()),
            inode,
            lost: Lost::default(),
        }
    }

    /// The bytes as a reader sees them now.
    pub fn bytes(&self) -> Vec<u8> {
        self.inode.state.borrow().volatile.to_vec()
    }

    /// The bytes that certainly survive a crash now.
    pub fn durable_bytes(&self) -> Vec<u8> {
        self.durable().to_vec()
    }

    /// What certainly survives a crash now.
    pub fn durable(&self) -> Content {
        self.inode.state.borrow().durable.clone()
    }

    /// One of the contents that a crash now can leave, chosen by `seed`.
    pub fn crash(&self, seed: u64) -> Vec<u8> {
        self.after_crash(seed).to_vec()
    }

    /// As [`SimFile::crash`], without a copy of all bytes.
    pub(crate) fn after_crash(&self, seed: u64) -> Content {
        let state = self.inode.state.borrow();
        let mut random = seed;
        let mut content = state.durable.clone();
        // Some crashes keep nearly everything, some nearly nothing, and some just what came last:
        // as if the disk did the latest first.
        let keep = random::next(&mut random) % 101;
        let all = state.unflushed.len() as u64;
        let from = random::next(&mut random) % (4 * all + 4);
        if from < all {
            for change in &state.unflushed[to_usize(from)..] {
                change.apply(&mut content);
            }
            return content;
        }
        for change in &state.unflushed {
            for part in change.parts() {
                if random::next(&mut random) % 100 < keep {
                    part.apply(&mut content);
                }
            }
        }
        content
    }

    /// Lets `calls` more writes, flushes and length changes succeed and fails all that follow.
    pub fn fail_after(&self, calls: u64) {
        self.inode.budget.set(calls);
    }

    /// Lets calls fail from now on as `faults` says.
    pub fn set_faults(&self, faults: Faults) {
        self.inode.faults.set(faults);
    }

    /// Lets the file take, or grow by, at most so many more blocks of 4 KiB; `None` ends the limit.
    /// Writes that need more write as much as there is room for and fail.
    pub fn set_room(&self, blocks: Option<u64>) {
        self.inode.room.set(blocks.unwrap_or(u64::MAX));
    }

    /// Lets the flush after `count` more find no room, as where the host allocates late: it fails,
    /// and what it was to make durable is lost, or not. `None`: no flush any more.
    pub fn fill_up_at_flush(&self, count: Option<u64>) {
        self.inode.full_at_flush.set(count);
    }

    /// Keeps those who have opened the file read-only from writing it
    /// ([`super::Storage::make_writable`]), or no longer.
    pub fn set_write_protected(&self, protected: bool) {
        self.inode.write_protected.set(protected);
    }

    pub(super) fn make_writable(&self) -> Result<()> {
        if self.inode.write_protected.get() {
            return Err(Error::File {
                what: "open",
                file: self.inode.path.clone(),
                source: io::ErrorKind::PermissionDenied.into(),
            });
        }
        Ok(())
    }

    /// Writes, flushes and length changes so far.
    pub fn changes(&self) -> u64 {
        self.inode.calls.get()
    }

    /// Flushes that have begun so far. When one begins, everything since the last one can be lost.
    pub fn flushes(&self) -> u64 {
        self.inode.flushes.get()
    }

    /// Times so far that something could not be brought to disk and was forgotten.
    pub fn losses(&self) -> u64 {
        self.inode.losses.get().count
    }

    pub(super) async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.delay().await;
        let mut bytes = vec![0; data.len()];
        let start = index(offset)?;
        self.inode.state.borrow().volatile.read(start, &mut bytes);
        if let Outcome::Fails(random) = self.outcome(Call::Read) {
            // As much as had been read by then.
            let len = index(random % (data.len() as u64 + 1))?;
            data.copy_from(0, &bytes[..len]);
            return Err(self.error("read", offset));
        }
        data.copy_from(0, &bytes);
        self.delay().await;
        Ok(())
    }

    pub(super) async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.delay().await;
        self.spend()
            .map_err(|error| self.failed("write", offset, error))?;
        let bytes = data.to_vec();
        let change = Change::Write {
            offset: index(offset)?,
            bytes,
        };
        let result = self.change(change, "write", Call::Write).await;
        if let Outcome::Fails(random) = self.outcome(Call::WriteBack) {
            self.inode.lose(error_of(random), random);
        }
        result
    }

    pub(super) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.delay().await;
        self.spend()
            .map_err(|error| self.failed("write zeroes", offset, error))?;
        let change = Change::Zero {
            offset: index(offset)?,
            len: index(len)?,
            hole: unmap,
        };
        self.change(change, "write zeroes", Call::Other).await
    }

    pub(super) async fn punch_hole(&self, offset: u64, len: u64) -> IoResult<()> {
        self.delay().await;
        let len = len.min(self.len().saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        self.spend()
            .map_err(|error| self.failed("punch a hole", offset, error))?;
        let change = Change::Zero {
            offset: index(offset)?,
            len: index(len)?,
            hole: true,
        };
        self.change(change, "punch a hole", Call::Other).await
    }

    pub(super) async fn set_len(&self, len: u64) -> IoResult<()> {
        self.delay().await;
        self.spend()
            .map_err(|error| self.failed("resize", len, error))?;
        self.change(Change::SetLen(index(len)?), "resize", Call::Other)
            .await
    }

    pub(super) async fn flush(&self) -> IoResult<()> {
        self.lost.check()?;
        let result = self.sync_data().await;
        self.lost.note(&self.inode.path, result)
    }

    /// As the host's fdatasync: what was lost is reported once.
    async fn sync_data(&self) -> io::Result<()> {
        self.inode.flushes.set(self.inode.flushes.get() + 1);
        let covered = self.inode.state.borrow().number_of_changes();
        self.delay().await;
        self.spend()?;
        self.delay().await;
        if self.inode.is_full_at_flush() {
            self.inode.lose(libc::ENOSPC, self.random());
        } else if let Outcome::Fails(random) = self.outcome(Call::Flush) {
            self.inode.lose(error_of(random), random);
        } else {
            self.inode.settle(covered);
        }
        self.take_loss()
    }

    /// Tells of what has been lost since the last time.
    fn take_loss(&self) -> io::Result<()> {
        let losses = self.inode.losses.get();
        if self.reported.replace(losses.count) == losses.count {
            return Ok(());
        }
        let reported = true;
        self.inode.losses.set(Losses { reported, ..losses });
        Err(io::Error::from_raw_os_error(losses.error))
    }

    pub(super) fn len(&self) -> u64 {
        self.inode.state.borrow().volatile.len() as u64
    }

    pub(super) fn extent(&self, offset: u64, len: u64) -> FileExtent {
        let volatile = &self.inode.state.borrow().volatile;
        let hole = FileExtent { len, data: false };
        let Ok(start) = usize::try_from(offset) else {
            return hole;
        };
        let end = volatile.len().min(start.saturating_add(to_usize(len)));
        if start >= end {
            return hole;
        }
        let is_hole = volatile.is_hole(start);
        let mut at = start;
        while at < end && volatile.is_hole(at) == is_hole {
            at = (at / content::BLOCK + 1) * content::BLOCK;
        }
        FileExtent {
            len: (at.min(end) - start) as u64,
            data: !is_hole,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::Sim(self.inode.number)
    }

    pub(super) fn path(&self) -> &Path {
        &self.inode.path
    }

    /// Makes a change in the file, in two steps where a seed says so, or in part where it fails.
    async fn change(&self, change: Change, what: &'static str, call: Call) -> IoResult<()> {
        let offset = change.offset() as u64;
        if let Outcome::Fails(mut random) = self.outcome(call) {
            let parts: Vec<_> = change.parts().collect();
            // A short write, or a torn one.
            let first = to_usize(random::next(&mut random)) % (parts.len() + 1);
            let short = random.is_multiple_of(2);
            for (n, part) in parts.into_iter().enumerate() {
                let kept = random::next(&mut random).is_multiple_of(2);
                if if short { n < first } else { kept } {
                    // Where there is no room any more, that is not what is reported.
                    let _ = self.apply(part);
                }
            }
            return Err(self.error(what, offset));
        }
        let cut = self.random().is_multiple_of(4);
        let (first, rest) = change.halves(cut);
        self.apply(first)?;
        if let Some(rest) = rest {
            self.delay().await;
            self.apply(rest)?;
        }
        self.delay().await;
        Ok(())
    }

    fn apply(&self, change: Change) -> IoResult<()> {
        let mut state = self.inode.state.borrow_mut();
        let (fitting, all) = self.fitting(&state.volatile, change);
        if let Some(change) = fitting {
            change.apply(&mut state.volatile);
            state.unflushed.push(change);
        }
        if all {
            Ok(())
        } else {
            let file = self.inode.path.clone();
            let why = NoRoom::Full;
            Err(IoError::NoSpace { file, why })
        }
    }

    /// As much of a change as there is room for, and whether that is all of it.
    fn fitting(&self, volatile: &Content, change: Change) -> (Option<Change>, bool) {
        let room = self.inode.room.get();
        if room == u64::MAX {
            return (Some(change), true);
        }
        let Some(end) = change.offset().checked_add(change.len()) else {
            return (None, false);
        };
        let blocks = |bytes: usize| bytes.div_ceil(content::BLOCK) as u64;
        let grown = |end: usize| blocks(end).saturating_sub(blocks(volatile.len()));
        let Change::Write { offset, bytes } = &change else {
            let Some(left) = room.checked_sub(grown(end)) else {
                return (None, false);
            };
            self.inode.room.set(left);
            return (Some(change), true);
        };
        let first = offset / content::BLOCK * content::BLOCK;
        let Some(mut left) = room.checked_sub(grown(first)) else {
            return (None, false);
        };
        for block in (first..end).step_by(content::BLOCK) {
            if !volatile.is_hole(block) {
                continue;
            }
            if left == 0 {
                self.inode.room.set(0);
                let offset = *offset;
                let bytes = bytes[..block.saturating_sub(offset)].to_vec();
                let some = !bytes.is_empty();
                return (some.then_some(Change::Write { offset, bytes }), false);
            }
            left -= 1;
        }
        self.inode.room.set(left);
        (Some(change), true)
    }

    fn outcome(&self, call: Call) -> Outcome {
        let faults = self.inode.faults.get();
        if faults == Faults::default() {
            return Outcome::Succeeds;
        }
        faults.outcome(call, self.random())
    }

    fn random(&self) -> u64 {
        let mut random = self.inode.random.get();
        let number = random::next(&mut random);
        self.inode.random.set(random);
        number
    }

    /// Lets up to three rounds of other tasks go by.
    async fn delay(&self) {
        for _ in 0..self.random() % 4 {
            yield_now().await;
        }
    }

    fn spend(&self) -> io::Result<()> {
        self.inode.calls.set(self.inode.calls.get() + 1);
        match self.inode.budget.get().checked_sub(1) {
            Some(rest) => {
                self.inode.budget.set(rest);
                Ok(())
            }
            None => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn error(&self, what: &'static str, offset: u64) -> IoError {
        self.failed(what, offset, io::Error::from_raw_os_error(libc::EIO))
    }

    fn failed(&self, what: &'static str, offset: u64, error: io::Error) -> IoError {
        IoError::Host {
            file: self.inode.path.clone(),
            what,
            offset,
            source: Arc::new(error),
        }
    }
}

impl Losses {
    /// How many a file that is opened now need not report.
    fn known(self) -> u64 {
        self.count - u64::from(self.count > 0 && !self.reported)
    }
}

impl Inode {
    /// Of what is not durable some becomes so, and what does not will never be. Readers find all of
    /// it, until a crash.
    fn lose(&self, error: i32, mut random: u64) {
        self.losses.set(Losses {
            count: self.losses.get().count + 1,
            error,
            reported: false,
        });
        let mut state = self.state.borrow_mut();
        let changes = std::mem::take(&mut state.unflushed);
        state.settled += changes.len();
        for part in changes.iter().flat_map(Change::parts) {
            if random::next(&mut random).is_multiple_of(2) {
                part.apply(&mut state.durable);
            }
        }
    }

    /// Whether this flush is the one that was to find no room.
    fn is_full_at_flush(&self) -> bool {
        let left = self.full_at_flush.get();
        let next = left.and_then(|left| left.checked_sub(1));
        self.full_at_flush.set(next);
        left == Some(0)
    }

    /// The first `covered` of all changes become durable.
    fn settle(&self, covered: usize) {
        let mut state = self.state.borrow_mut();
        // Another flush may have ended meanwhile and taken some of them.
        let covered = covered.saturating_sub(state.settled);
        let changes: Vec<_> = state.unflushed.drain(..covered).collect();
        state.settled += covered;
        for change in changes {
            change.apply(&mut state.durable);
        }
    }
}

impl State {
    fn number_of_changes(&self) -> usize {
        self.settled + self.unflushed.len()
    }
}

/// Why bytes cannot be brought to disk. Where the host allocates late there may be no room.
fn error_of(mut random: u64) -> i32 {
    match random::next(&mut random) % 4 {
        0 => libc::ENOSPC,
        1 => libc::EDQUOT,
        _ => libc::EIO,
    }
}

fn index(offset: u64) -> IoResult<usize> {
    usize::try_from(offset).map_err(|_| IoError::OutOfRange)
}

#[cfg(test)]
mod tests;
