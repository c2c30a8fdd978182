//! What a chain of layers holds in a range, for exports.

use std::rc::Rc;

use strata_format::extent::DiskExtent;
use strata_storage::error::IoResult;

use super::{
    Node,
    walk::{Turn, Walk},
};

/// Extents of layers looked at for one answer at most: a fragmented disk gets a short answer
/// rather than a late one.
const MAX_LOOKS: usize = 8192;

/// Bytes of a sector. Extents end where sectors do, or clients that count in sectors stumble.
const SECTOR: u64 = 512;

/// What the chain from `top` down holds from `offset` on: at most `max` extents (at least 1), which
/// together cover `len` bytes (at least 1) or fewer. Neighbours differ. All but the last end at a
/// multiple of 512 bytes.
///
/// # Errors
/// An I/O error on a layer's tables, or that they are corrupt.
pub(super) async fn survey(
    top: &Rc<Node>,
    offset: u64,
    len: u64,
    max: usize,
) -> IoResult<Vec<DiskExtent>> {
    let mut extents: Vec<DiskExtent> = Vec::new();
    let (walk, mut turn, mut done) = (top.walk(), Turn::default(), 0);
    while done < len && turn.looks() < MAX_LOOKS {
        let next = sectors_at(&walk, offset + done, len - done, &mut turn).await?;
        done += next.len;
        let full = extents.len() == max;
        match extents.last_mut() {
            Some(last) if (last.zero, last.depth) == (next.zero, next.depth) => {
                last.len += next.len;
            }
            _ if full => break,
            _ => extents.push(next),
        }
    }
    Ok(extents)
}

/// The first extent of the range, in whole sectors. Where layers end within a sector, that is data
/// if any of it is.
async fn sectors_at(
    walk: &Walk<'_>,
    offset: u64,
    len: u64,
    turn: &mut Turn,
) -> IoResult<DiskExtent> {
    let mut found = at(walk, offset, len, turn).await?;
    let beyond = (offset + found.len) % SECTOR;
    if beyond > 0 && beyond < found.len && found.len < len {
        found.len -= beyond;
        return Ok(found);
    }
    let sector_end = offset - offset % SECTOR + SECTOR;
    let most = len.min(sector_end - offset);
    while found.len < most {
        let next = at(walk, offset + found.len, most - found.len, turn).await?;
        found.len += next.len;
        found.zero &= next.zero;
        found.depth = match (found.depth, next.depth) {
            (0, depth) | (depth, 0) => depth,
            (one, other) => one.min(other),
        };
    }
    Ok(found)
}

/// The first extent of the range.
async fn at(walk: &Walk<'_>, offset: u64, len: u64, turn: &mut Turn) -> IoResult<DiskExtent> {
    let found = walk.find_in(turn, offset, len).await?;
    Ok(DiskExtent {
        len: found.len,
        zero: found.is_zero(),
        depth: found.depth,
    })
}

#[cfg(test)]
mod tests;
