//! An offline commit: what the layers above a base hold goes down into it.
//!
//! What the top holds is given up only once the base is durable, so a commit that is killed at any
//! moment leaves a chain that reads the same bytes, and one that is started again ends it. Other
//! images on the same base see what was written to it: nobody can help that.

use std::rc::Rc;

use strata_exec::{
    SpeedLimit,
    mem::{SgList, to_usize},
    yield_now,
};
use strata_format::extent::ExtentKind;
use strata_storage::error::{Error, IoResult, Result};

use crate::{Dropped, Node};

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;
/// Bytes that are zeroed at once: a raw base may have to write them.
const ZERO_CHUNK: u64 = 64 << 20;

/// Copies what `top` and the layers between it and `base` hold into `base`, which can be written
/// ([`Node::prepare_writing`]) and grows if it is shorter, and makes that durable, no faster than
/// `limit`. `progress` is called with how many bytes of how many are done.
///
/// # Errors
/// The chain reads the same afterwards; the commit can be started again.
pub async fn commit(
    top: &Rc<Node>,
    base: &Rc<Node>,
    limit: Option<&SpeedLimit>,
    progress: &dyn Fn(u64, u64),
) -> Result<()> {
    let size = top.size();
    if base.size() < size {
        grow(base, size).await?;
    }
    let buffer = SgList::zeroed(to_usize(CHUNK));
    let mut offset = 0;
    while offset < size {
        let step = step(top, base, offset, &buffer).await?;
        offset += step.len;
        progress(offset, size);
        if let Some(limit) = limit {
            limit.pass(step.copied).await;
        }
        yield_now().await;
    }
    base.image().settle().await
}

/// Makes `base` as large as what lies above it: `size` bytes. Nothing else uses it meanwhile.
///
/// # Errors
/// As [`Node::resize`].
pub async fn grow(base: &Node, size: u64) -> Result<()> {
    blank_raw_data(base, size).await?;
    base.resize(size).await
}

/// Where `base` is going to grow, the chain shows zeros: also where a raw external data file holds
/// something, which its image shows as soon as it is as large.
async fn blank_raw_data(base: &Node, size: u64) -> IoResult<()> {
    let Some(image) = base.image().as_qcow2() else {
        return Ok(());
    };
    let data = image.data_storage();
    let end = data.len().min(size);
    if image.data_file().is_some_and(|data| data.raw) && base.size() < end {
        data.write_zeroes(base.size(), end - base.size(), true)
            .await?;
    }
    Ok(())
}

/// A part of the disk that is done. Bytes.
struct Step {
    len: u64,
    copied: u64,
}

/// Does a part of the disk.
async fn step(top: &Rc<Node>, base: &Rc<Node>, offset: u64, buffer: &SgList) -> IoResult<Step> {
    let rest = top.size() - offset;
    let walk = top.walk().above(Some(base));
    // Nothing is held while the base is written: see the order of entries.
    let extent = walk.find(offset, rest).await?.extent();
    let done = |len, copied| Ok(Step { len, copied });
    match extent.kind {
        ExtentKind::Unallocated => done(extent.len, 0),
        ExtentKind::Zero => {
            let len = extent.len.min(ZERO_CHUNK);
            base.write_zeroes(offset, len, true).await?;
            done(len, 0)
        }
        ExtentKind::Data { .. } | ExtentKind::Compressed => {
            let len = extent.len.min(CHUNK);
            let data = buffer.slice(0, len as usize);
            top.read(offset, data.clone()).await?;
            base.write(offset, data).await?;
            done(len, len)
        }
    }
}

/// Gives up all that `top` holds itself, so that it shows its backing file again: after a
/// [`commit`] the same bytes.
///
/// # Errors
/// The host's error. What the top still holds is as it was.
pub async fn make_empty(top: &Rc<Node>) -> Result<()> {
    check_backing(top)?;
    top.image().make_empty().await?;
    top.image().settle().await
}

/// As [`make_empty`], for a guest that waits: what was there may take its room still, until the
/// caller has freed it ([`Image::free_dropped`](super::Image::free_dropped)).
///
/// # Errors
/// As [`make_empty`].
pub async fn drop_content(top: &Rc<Node>) -> Result<Dropped> {
    check_backing(top)?;
    Ok(top.image().drop_content().await?)
}

fn check_backing(top: &Node) -> Result<()> {
    if top.backing().is_some() {
        return Ok(());
    }
    Err(Error::Image {
        file: top.path().to_owned(),
        why: "has no backing file: nothing would be left".to_owned(),
    })
}
