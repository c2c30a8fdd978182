//! A simulated file with a volatile and a durable side.
//!
//! Every call takes effect at a moment that a seed chooses, after other tasks may have run. A crash
//! keeps what was durable and an arbitrary part of what was written since, torn at 512 bytes.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::FileExtent;
use crate::{
    error::{IoError, IoResult},
    exec::yield_now,
    mem::SgList,
    random,
};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// A simulated file, as a [`super::Storage`].
pub struct SimFile {
    path: PathBuf,
    random: Cell<u64>,
    state: RefCell<State>,
    /// Writes, flushes and length changes that still succeed; all later ones fail.
    budget: Cell<u64>,
    /// Where the file must end at the latest.
    room: Cell<u64>,
    calls: Cell<u64>,
}

#[derive(Default)]
struct State {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    /// What was done since the last flush, in order.
    unflushed: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl SimFile {
    /// A file that holds `bytes`, all durable.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>, seed: u64) -> Self {
        let state = State {
            durable: bytes.clone(),
            volatile: bytes,
            unflushed: Vec::new(),
        };
        Self {
            path: path.into(),
            random: Cell::new(seed),
            state: RefCell::new(state),
            budget: Cell::new(u64::MAX),
            room: Cell::new(u64::MAX),
            calls: Cell::new(0),
        }
    }

    /// The bytes as a reader sees them now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.borrow().volatile.clone()
    }

    /// The bytes that certainly survive a crash now.
    pub fn durable_bytes(&self) -> Vec<u8> {
        self.state.borrow().durable.clone()
    }

    /// One of the contents that a crash now can leave, chosen by `seed`.
    pub fn crash(&self, seed: u64) -> Vec<u8> {
        let state = self.state.borrow();
        let mut random = seed;
        let mut bytes = state.durable.clone();
        // Some crashes keep nearly everything, some nearly nothing.
        let keep = random::next(&mut random) % 101;
        for change in &state.unflushed {
            match change {
                Change::SetLen(len) if random::next(&mut random) % 100 < keep => {
                    bytes.resize(*len, 0);
                }
                Change::SetLen(_) => {}
                Change::Write { offset, bytes: new } => {
                    for (start, sector) in sectors(*offset, new) {
                        if random::next(&mut random) % 100 < keep {
                            put(&mut bytes, start, sector);
                        }
                    }
                }
            }
        }
        bytes
    }

    /// Lets `calls` more writes, flushes and length changes succeed and fails all that follow.
    pub fn fail_after(&self, calls: u64) {
        self.budget.set(calls);
    }

    /// Lets the file grow by this many blocks of 4 KiB; then the disk is full.
    pub fn set_room(&self, blocks: Option<u64>) {
        let end = blocks.map_or(u64::MAX, |blocks| self.len() + blocks * 4096);
        self.room.set(end);
    }

    fn fits(&self, offset: u64, len: u64) -> IoResult<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.room.get() => Ok(()),
            _ => Err(IoError::NoSpace {
                file: self.path.clone(),
            }),
        }
    }

    /// Writes, flushes and length changes so far.
    pub fn changes(&self) -> u64 {
        self.calls.get()
    }

    pub(super) async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.delay().await;
        let state = self.state.borrow();
        let start = state.volatile.len().min(index(offset)?);
        let end = state.volatile.len().min(start + data.len());
        data.copy_from(0, &state.volatile[start..end]);
        data.fill(end - start, data.len() - (end - start), 0);
        Ok(())
    }

    pub(super) async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.delay().await;
        self.spend("write", offset)?;
        self.fits(offset, data.len() as u64)?;
        self.apply(Change::Write {
            offset: index(offset)?,
            bytes: data.to_vec(),
        });
        self.delay().await;
        Ok(())
    }

    pub(super) async fn write_zeroes(&self, offset: u64, len: u64) -> IoResult<()> {
        self.fits(offset, len)?;
        self.write(offset, SgList::zeroed(index(len)?)).await
    }

    pub(super) async fn flush(&self) -> IoResult<()> {
        let covered = self.state.borrow().unflushed.len();
        self.delay().await;
        self.spend("flush", 0)?;
        let mut state = self.state.borrow_mut();
        // Another flush may have ended meanwhile and taken some of them.
        let covered = covered.min(state.unflushed.len());
        let changes: Vec<_> = state.unflushed.drain(..covered).collect();
        for change in changes {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    pub(super) async fn set_len(&self, len: u64) -> IoResult<()> {
        self.delay().await;
        self.spend("resize", len)?;
        self.fits(len, 0)?;
        self.apply(Change::SetLen(index(len)?));
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.state.borrow().volatile.len() as u64
    }

    pub(super) fn extent(&self, offset: u64, len: u64) -> FileExtent {
        let inside = self.len().saturating_sub(offset).min(len);
        if inside == 0 {
            FileExtent { len, data: false }
        } else {
            FileExtent {
                len: inside,
                data: true,
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn apply(&self, change: Change) {
        let mut state = self.state.borrow_mut();
        change.clone().apply(&mut state.volatile);
        state.unflushed.push(change);
    }

    /// Lets up to three rounds of other tasks go by.
    async fn delay(&self) {
        let mut random = self.random.get();
        let rounds = random::next(&mut random) % 4;
        self.random.set(random);
        for _ in 0..rounds {
            yield_now().await;
        }
    }

    fn spend(&self, what: &'static str, offset: u64) -> IoResult<()> {
        self.calls.set(self.calls.get() + 1);
        match self.budget.get().checked_sub(1) {
            Some(rest) => {
                self.budget.set(rest);
                Ok(())
            }
            None => {
                let source = Arc::new(std::io::Error::from_raw_os_error(libc::EIO));
                Err(IoError::Host {
                    file: self.path.clone(),
                    what,
                    offset,
                    source,
                })
            }
        }
    }
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes: new } => put(bytes, offset, &new),
            Self::SetLen(len) => bytes.resize(len, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}

/// The parts of a write that a disk writes as a whole, with their offsets.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = offset + at;
        let len = (SECTOR - start % SECTOR).min(bytes.len() - at);
        let part = &bytes[at..at + len];
        at += len;
        (len != 0).then_some((start, part))
    })
}

fn index(offset: u64) -> IoResult<usize> {
    usize::try_from(offset).map_err(|_| IoError::OutOfRange)
}
