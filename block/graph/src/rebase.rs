//! A rebase: an image gets another backing file and shows the same bytes.
//!
//! Where the old and the new backing file differ, the old bytes go into the image first; the header
//! names the new one when they are durable. Killed at any moment, the image reads the same.

use std::rc::Rc;

use strata_exec::{
    mem::{SgList, to_usize},
    yield_now,
};
use strata_format::{backing::Backing, extent::ExtentKind};
use strata_storage::error::{Error, IoResult, Result};

use crate::{Format, Node};

/// Bytes that are compared at once.
const CHUNK: u64 = 1 << 20;
/// Bytes that are looked at, or zeroed, at once.
const LOOK: u64 = 256 << 20;
/// What differs is written in whole sectors.
const SECTOR: usize = 512;

/// Writes to `top` what it does not hold and `new` shows otherwise than the backing file so far
/// (`None`: zeros). `progress` is called with how many bytes of how many are done.
///
/// # Errors
/// The image shows the same bytes as before.
pub async fn copy_differences(
    top: &Rc<Node>,
    new: Option<&Rc<Node>>,
    progress: &dyn Fn(u64, u64),
) -> Result<()> {
    let rebase = Rebase {
        top,
        new,
        common: new.and_then(|new| common_layer(top, new)),
        buffers: [(); 2].map(|()| SgList::zeroed(to_usize(CHUNK))),
    };
    let mut offset = 0;
    while offset < top.size() {
        offset += rebase.step(offset).await?;
        progress(offset, top.size());
        yield_now().await;
    }
    Ok(())
}

/// Has the header of `top` name another backing file, when everything before is durable. With
/// [`copy_differences`] before, that changes nothing of what the image shows; without it, that is
/// for the caller to know. The graph in memory stays as it is.
///
/// # Errors
/// The format has no backing files, the name does not fit, or the host's error: the header is as it
/// was then.
pub async fn change_backing(top: &Rc<Node>, backing: Option<Backing>) -> Result<()> {
    if top.format() == Format::Raw {
        return Err(Error::Image {
            file: top.path().to_owned(),
            why: "a raw image has no header to name a backing file".to_owned(),
        });
    }
    top.flush().await?;
    top.image().write_backing_name(backing).await?;
    top.image().settle().await
}

struct Rebase<'a> {
    top: &'a Rc<Node>,
    new: Option<&'a Rc<Node>>,
    /// The layer of the old chain that the new backing file is, if it is one.
    common: Option<Rc<Node>>,
    buffers: [SgList; 2],
}

/// What lies below a range, as far as it is known without reading.
#[derive(PartialEq, Eq)]
enum Below {
    Zero,
    Unknown,
}

/// The layer below `top` that is the same file as `new`.
fn common_layer(top: &Rc<Node>, new: &Rc<Node>) -> Option<Rc<Node>> {
    let wanted = new.image().storage().identity().ok()?;
    let mut below = top.chain().skip(1);
    below.find(|node| {
        node.image()
            .storage()
            .identity()
            .is_ok_and(|id| id == wanted)
    })
}

impl Rebase<'_> {
    /// Does a part of the disk, and returns how many bytes that was.
    async fn step(&self, offset: u64) -> IoResult<u64> {
        let look = LOOK.min(self.top.size() - offset);
        let mine = self.top.extent(offset, look).await?;
        if mine.kind != ExtentKind::Unallocated {
            return Ok(mine.len);
        }
        let (len, same) = self.is_common(offset, mine.len).await?;
        if same {
            return Ok(len);
        }
        let old = self.top.backing();
        let (len, before) = below(old.as_ref(), offset, len).await?;
        let (len, after) = below(self.new, offset, len).await?;
        match (before, after) {
            (Below::Zero, Below::Zero) => Ok(len),
            (Below::Zero, Below::Unknown) => self.zero(offset, len.min(CHUNK)).await,
            _ => self.copy(offset, len.min(CHUNK)).await,
        }
    }

    /// Whether nothing lies between the image and its new backing file, which it lies on already.
    async fn is_common(&self, offset: u64, len: u64) -> IoResult<(u64, bool)> {
        let (Some(common), Some(old)) = (&self.common, self.top.backing()) else {
            return Ok((len, false));
        };
        let walk = old.walk().above(Some(common));
        let extent = walk.find(offset, len).await?.extent();
        let inside = offset + extent.len <= common.size();
        Ok((extent.len, extent.kind == ExtentKind::Unallocated && inside))
    }

    /// Where the new backing file shows anything but zeros, the image has to say that it is zero.
    async fn zero(&self, offset: u64, len: u64) -> IoResult<u64> {
        let new = self.read_new(offset, len).await?;
        for (start, end) in differences(&new, &vec![0; new.len()]) {
            let at = offset + start as u64;
            self.top.hide_with_zeroes(at, (end - start) as u64).await?;
        }
        Ok(len)
    }

    async fn copy(&self, offset: u64, len: u64) -> IoResult<u64> {
        let old = self.buffers[0].slice(0, to_usize(len));
        self.top.read_backing(offset, old.clone()).await?;
        let before = old.to_vec();
        let after = self.read_new(offset, len).await?;
        for (start, end) in differences(&before, &after) {
            let at = offset + start as u64;
            let part = old.slice(start, end - start);
            if part.is_zero() {
                self.top.hide_with_zeroes(at, part.len() as u64).await?;
            } else {
                self.top.write(at, part).await?;
            }
        }
        Ok(len)
    }

    async fn read_new(&self, offset: u64, len: u64) -> IoResult<Vec<u8>> {
        let data = self.buffers[1].slice(0, to_usize(len));
        match self.new {
            Some(new) => new.read(offset, data.clone()).await?,
            None => data.fill(0, data.len(), 0),
        }
        Ok(data.to_vec())
    }
}

/// What a chain shows, as far as its tables say; zeros behind its end, and if there is none.
async fn below(chain: Option<&Rc<Node>>, offset: u64, len: u64) -> IoResult<(u64, Below)> {
    let Some(top) = chain else {
        return Ok((len, Below::Zero));
    };
    let found = top.walk().find(offset, len).await?;
    let below = if found.is_zero() {
        Below::Zero
    } else {
        Below::Unknown
    };
    Ok((found.len, below))
}

/// The ranges in which two buffers of the same length differ, in whole sectors.
fn differences(a: &[u8], b: &[u8]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let sectors = a.chunks(SECTOR).zip(b.chunks(SECTOR)).enumerate();
    for (n, (a, b)) in sectors {
        if a == b {
            continue;
        }
        let (start, end) = (n * SECTOR, n * SECTOR + a.len());
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}
