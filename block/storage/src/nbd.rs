//! An export of an NBD server.
//!
//! While the server is away, requests wait; when it is back (with the same size and abilities),
//! those that had no answer are sent again and everything goes on. A request that has waited for
//! as long as the user set fails, and so do all others until the server is back.
//!
//! A server that dies loses writes that it had acknowledged and not made durable. They are kept
//! here until the next flush, and sent again before anything else when it is back (to a server that
//! has lost nothing, too: nobody can know). So that this takes a bounded memory, the server is
//! asked to flush now and then. A server without flushes keeps what it has acknowledged, or breaks
//! its word.

mod connection;
mod greet;
mod link;
mod unflushed;
mod uri;
pub mod wire;

use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

pub use uri::is_nbd_uri;

use strata_exec::{
    Executor, Helpers,
    mem::{SgList, to_usize},
    sync::Lock,
};

use self::{
    connection::{Call, says_zero},
    link::Link,
    uri::Uri,
};
use super::{FileExtent, Identity};
use crate::{
    error::{Error, IoError, IoResult, NoRoom, Result},
    nbd::wire::proto::{CommandFlags, Transmission, command},
};

/// How long requests wait for a server that is gone, where the user does not say.
pub const DEFAULT_RECONNECT_DELAY: Duration = Duration::from_secs(30);

/// Bytes in one request that has no payload at most.
const MAX_EFFECT: u64 = 1 << 30;

/// Bytes of zeros sent at a time to a server that cannot zero by itself.
const ZEROS: u64 = 1 << 20;

/// How an export is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NbdOptions {
    /// Writes are refused.
    pub read_only: bool,
    /// Flushes are ignored (`cache=unsafe`).
    pub no_flush: bool,
    /// How long requests wait for a server that is gone.
    pub reconnect_delay: Duration,
}

/// An export, as a [`super::Storage`].
pub struct NbdStorage {
    path: PathBuf,
    options: NbdOptions,
    /// Writes are refused.
    read_only: Cell<bool>,
    link: Rc<Link>,
    /// Held while a part of a block is changed, where the server takes whole blocks only.
    partial: Lock,
}

/// The identity of the export that `path` (a URI) names.
///
/// # Errors
/// What is wrong with the URI.
pub(super) fn identity_of(path: &Path) -> std::result::Result<Identity, String> {
    let text = path.to_str().ok_or("it is not UTF-8".to_owned())?;
    Uri::parse(text).map(|uri| uri.identity())
}

impl NbdStorage {
    /// Connects to the export that `path` (a URI) names, in bounded time.
    ///
    /// # Errors
    /// The URI is malformed, the server is not there or does not want to, or the export cannot be
    /// written and should be.
    pub(crate) async fn open(
        exec: &Rc<Executor>,
        path: &Path,
        options: NbdOptions,
    ) -> Result<Self> {
        let refused = |why: String| Error::Image {
            file: path.to_owned(),
            why,
        };
        let text = path.to_str().ok_or("it is not UTF-8".to_owned());
        let uri = text
            .and_then(Uri::parse)
            .map_err(|why| refused(format!("is not a usable NBD URI: {why}")))?;
        let keeps = !options.no_flush;
        let link = Link::open(exec, uri, path.to_owned(), options.reconnect_delay, keeps)
            .await
            .map_err(|error| Error::File {
                what: "connect to",
                file: path.to_owned(),
                source: io::Error::other(error.to_string()),
            })?;
        let export = Self {
            path: path.to_owned(),
            read_only: Cell::new(true),
            options,
            link,
            partial: Lock::default(),
        };
        if !options.read_only {
            export.make_writable()?;
        }
        Ok(export)
    }

    /// Has an export that was opened read-only be written, too.
    ///
    /// # Errors
    /// The server does not let it be written.
    pub(super) fn make_writable(&self) -> Result<()> {
        if self.has(Transmission::READ_ONLY) {
            return Err(Error::Image {
                file: self.path.clone(),
                why: "the server exports it read-only: say readonly=on".to_owned(),
            });
        }
        self.read_only.set(false);
        Ok(())
    }

    pub(super) async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        let inside = super::before_end(offset, data.len() as u64, self.len());
        let len = to_usize(inside.end - inside.start);
        data.fill(len, data.len() - len, 0);
        let (start, end) = self.whole_blocks(inside.start, inside.end);
        if (start, end) == (inside.start, inside.end) {
            return self.read_blocks(start, data.slice(0, len)).await;
        }
        let blocks = SgList::zeroed(to_usize(end - start));
        self.read_blocks(start, blocks.clone()).await?;
        let wanted = blocks.slice(to_usize(inside.start - start), len);
        data.copy_from(0, &wanted.to_vec());
        Ok(())
    }

    pub(super) async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.check(offset, data.len() as u64)?;
        let end = offset + data.len() as u64;
        let (start, stop) = self.whole_blocks(offset, end);
        if (start, stop) == (offset, end) {
            return self.write_blocks(offset, data).await;
        }
        let _held = self.partial.lock().await;
        let blocks = SgList::zeroed(to_usize(stop - start));
        self.read_blocks(start, blocks.clone()).await?;
        blocks.copy_from(to_usize(offset - start), &data.to_vec());
        self.write_blocks(start, blocks).await
    }

    pub(super) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.check(offset, len)?;
        let by_server = self.has(Transmission::SEND_WRITE_ZEROES);
        let (start, stop) = self.inner_blocks(offset, offset + len);
        if !by_server || start >= stop {
            return self.send_zeros(offset, len).await;
        }
        let mut flags = CommandFlags::empty();
        flags.set(CommandFlags::NO_HOLE, !unmap);
        self.send_zeros(offset, start - offset).await?;
        self.effect("write zeroes", command::WRITE_ZEROES, flags, start, stop)
            .await?;
        self.send_zeros(stop, offset + len - stop).await
    }

    /// By fast zeroing where the server has it: what TRIM leaves behind is anybody's guess.
    pub(super) async fn punch_hole(&self, offset: u64, len: u64) -> IoResult<()> {
        let inside = super::before_end(offset, len, self.len());
        self.check(inside.start, inside.end - inside.start)?;
        let (start, stop) = self.inner_blocks(inside.start, inside.end);
        if start >= stop || !self.has(Transmission::SEND_FAST_ZERO) {
            return Ok(());
        }
        let flags = CommandFlags::FAST_ZERO;
        let result = self
            .effect("discard", command::WRITE_ZEROES, flags, start, stop)
            .await;
        match result {
            Err(IoError::Host { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    pub(super) async fn flush(&self) -> IoResult<()> {
        if self.read_only.get() || self.options.no_flush || !self.has(Transmission::SEND_FLUSH) {
            return Ok(());
        }
        self.link.flush().await
    }

    pub(super) async fn set_len(&self, len: u64) -> IoResult<()> {
        if len == self.len() {
            return Ok(());
        }
        Err(IoError::Unsupported {
            file: self.path.clone(),
            what: "changing the size of an NBD export".to_owned(),
        })
    }

    /// Bytes of the export.
    pub(crate) fn len(&self) -> u64 {
        self.link.facts().size
    }

    pub(super) async fn extent(&self, offset: u64, len: u64) -> FileExtent {
        if offset >= self.len() {
            return FileExtent { len, data: false };
        }
        let unknown = FileExtent { len, data: true };
        let end = (offset + len).min(self.len());
        let (start, stop) = self.inner_blocks(offset, end.min(offset + MAX_EFFECT));
        if start != offset || start >= stop || self.link.facts().allocation.is_none() {
            return unknown;
        }
        let call = Call {
            kind: command::BLOCK_STATUS,
            flags: CommandFlags::REQ_ONE,
            offset: start,
            len: effect_len(stop - start),
            data: SgList::empty(),
        };
        // An error shows again when the range is read.
        match self.link.call("look up extents", call).await {
            Ok(Some((found, flags))) if found > 0 => FileExtent {
                len: u64::from(found).min(stop - start),
                data: !says_zero(flags),
            },
            _ => unknown,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.link.uri().identity()
    }

    /// The URI as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The threads for long work.
    pub(super) fn helpers(&self) -> &Rc<Helpers> {
        self.link.helpers()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.get()
    }

    fn has(&self, flag: Transmission) -> bool {
        self.link.facts().flags.contains(flag)
    }

    /// Whether a range may be written. An export does not grow: that is as a full disk.
    fn check(&self, offset: u64, len: u64) -> IoResult<()> {
        if self.read_only.get() {
            return Err(IoError::ReadOnly);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(IoError::NoSpace {
                file: self.path.clone(),
                why: NoRoom::Full,
            }),
        }
    }

    /// The blocks that a range touches. (A last, partial block is all there is of it.)
    fn whole_blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let block = u64::from(self.link.facts().minimum);
        let stop = end.next_multiple_of(block).min(self.len());
        (start - start % block, stop)
    }

    /// The blocks that lie within a range as a whole; none if the first is not before the second.
    fn inner_blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let block = u64::from(self.link.facts().minimum);
        let stop = if end == self.len() {
            end
        } else {
            end - end % block
        };
        (start.next_multiple_of(block), stop)
    }

    async fn read_blocks(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.transfer("read", command::READ, offset, data).await
    }

    async fn write_blocks(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.transfer("write", command::WRITE, offset, data).await
    }

    /// In pieces that the server takes.
    async fn transfer(
        &self,
        what: &'static str,
        kind: u16,
        offset: u64,
        data: SgList,
    ) -> IoResult<()> {
        let max = self.link.facts().maximum as usize;
        let flags = CommandFlags::empty();
        let mut done = 0;
        while done < data.len() {
            let len = max.min(data.len() - done);
            let (at, part) = (offset + done as u64, data.slice(done, len));
            self.send(what, kind, flags, at, len as u64, part).await?;
            done += len;
        }
        Ok(())
    }

    /// A command without payload, in pieces.
    async fn effect(
        &self,
        what: &'static str,
        kind: u16,
        flags: CommandFlags,
        mut start: u64,
        stop: u64,
    ) -> IoResult<()> {
        while start < stop {
            let len = MAX_EFFECT.min(stop - start);
            let nothing = SgList::empty();
            self.send(what, kind, flags, start, len, nothing).await?;
            start += len;
        }
        Ok(())
    }

    /// Zeros over the wire.
    async fn send_zeros(&self, mut offset: u64, mut len: u64) -> IoResult<()> {
        while len > 0 {
            let part = ZEROS.min(len);
            let zeros = SgList::zeroed(to_usize(part));
            Box::pin(self.write(offset, zeros)).await?;
            offset += part;
            len -= part;
        }
        Ok(())
    }

    async fn send(
        &self,
        what: &'static str,
        kind: u16,
        flags: CommandFlags,
        offset: u64,
        len: u64,
        data: SgList,
    ) -> IoResult<()> {
        let call = Call {
            kind,
            flags,
            offset,
            len: effect_len(len),
            data,
        };
        self.link.call(what, call).await.map(|_| ())
    }
}

/// A length that [`MAX_EFFECT`] or the maximum payload bounds.
fn effect_len(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
