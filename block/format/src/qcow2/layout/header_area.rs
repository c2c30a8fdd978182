//! The first cluster: header, extensions and the backing file's name, and how it is changed.
//!
//! A crash may tear a write at 512 bytes. So whatever the first sector says must make sense with
//! both the old and the new bytes behind it: the extensions stay within the first sector, the
//! feature name table is given up where they do not fit, and a new name never lies on the old one.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};
use strata_exec::mem::to_usize;

use crate::{
    backing::{Backing, file_name},
    qcow2::layout::{
        extensions::{DirectoryPlace, Extensions},
        header::{AUTOCLEAR_BITMAPS, Header, MAX_BACKING_NAME},
    },
};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// Content of the first cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderArea {
    /// The fields.
    pub header: Header,
    /// The extensions.
    pub extensions: Extensions,
    /// The backing file's name.
    pub backing_name: Option<OsString>,
}

/// The bytes to write for a change: first what lies behind the first sector, then that.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes behind the first sector, and where they go. Durable before `head` is written.
    pub tail: Option<(u64, Vec<u8>)>,
    /// The first bytes of the file; at most one sector, unless unknown extensions take more.
    pub head: Vec<u8>,
}

impl HeaderArea {
    /// Reads the first cluster of an image.
    ///
    /// # Errors
    /// What makes it unreadable.
    pub fn parse(cluster: &[u8]) -> Result<Self, String> {
        let header = Header::parse(cluster)?;
        let (end, name) = match header.backing {
            None => (cluster.len(), None),
            Some((offset, len)) => {
                let (start, name) = backing_name(cluster, offset, len)?;
                (start, Some(name))
            }
        };
        if end < header.len() {
            return Err("the backing file's name overlaps the header".into());
        }
        Ok(Self {
            extensions: Extensions::parse(&cluster[header.len()..end])?,
            header,
            backing_name: name,
        })
    }

    /// The backing file.
    pub fn backing(&self) -> Option<Backing> {
        Some(Backing {
            name: self.backing_name.clone()?,
            format: self.extensions.backing_format(),
        })
    }

    /// Changes the backing file and finds a place for its name.
    ///
    /// # Errors
    /// The name is too long, or does not fit the first cluster.
    pub fn set_backing(&mut self, backing: Option<&Backing>) -> Result<(), String> {
        let old = self.header.backing;
        let format = backing.and_then(|b| b.format.as_deref());
        let name = backing.map(|b| b.name.clone());
        let name_len = name.as_ref().map_or(0, |name| name.len());
        if name_len > MAX_BACKING_NAME {
            return Err(format!(
                "the backing file's name has {name_len} bytes, more than {MAX_BACKING_NAME}"
            ));
        }
        self.extensions.set_backing_format(format);
        self.header.backing = None;
        if self.extensions_end() > SECTOR {
            self.extensions.drop_feature_names();
        }
        let end = self.extensions_end();
        let cluster = self.header.geometry.cluster_len();
        if name.is_some() {
            let place = place_for_name(end, name_len, old, cluster).ok_or_else(|| {
                format!("the backing file's name of {name_len} bytes does not fit the header cluster of {cluster} bytes")
            })?;
            let name_len = u32::try_from(name_len).expect("at most MAX_BACKING_NAME");
            self.header.backing = Some((place as u64, name_len));
        } else if end > cluster {
            return Err("the header extensions do not fit the header cluster".into());
        }
        self.backing_name = name;
        Ok(())
    }

    /// Names another directory of persistent bitmaps, or none, and says whether it is valid.
    ///
    /// # Errors
    /// The extension does not fit the first cluster.
    pub fn set_bitmaps(&mut self, place: Option<DirectoryPlace>) -> Result<(), String> {
        let valid = if place.is_some() {
            AUTOCLEAR_BITMAPS
        } else {
            0
        };
        self.header.autoclear &= !AUTOCLEAR_BITMAPS;
        self.header.autoclear |= valid;
        self.extensions.set_bitmap_directory(place);
        let backing = self.backing();
        self.set_backing(backing.as_ref())
    }

    /// The bytes to write.
    pub fn layout(&self) -> Layout {
        let mut bytes = self.header.to_bytes();
        bytes.extend_from_slice(&self.extensions.to_bytes());
        let mut tail = None;
        if let (Some((offset, _)), Some(name)) = (self.header.backing, &self.backing_name) {
            // In bounds: `set_backing` and `parse` have checked the place.
            let (offset, name) = (to_usize(offset), name.as_bytes());
            let inside = SECTOR.saturating_sub(offset).min(name.len());
            if inside > 0 {
                bytes.resize(offset.max(bytes.len()), 0);
                bytes.truncate(offset);
                bytes.extend_from_slice(&name[..inside]);
            }
            if inside < name.len() {
                tail = Some(((offset + inside) as u64, name[inside..].to_vec()));
            }
        }
        if bytes.len() < SECTOR {
            bytes.resize(SECTOR, 0);
        }
        Layout { tail, head: bytes }
    }

    fn extensions_end(&self) -> usize {
        self.header.len() + self.extensions.to_bytes().len()
    }
}

/// Reads the backing file's name, and says where it starts.
fn backing_name(cluster: &[u8], offset: u64, len: u32) -> Result<(usize, OsString), String> {
    let len = len as usize;
    if len > MAX_BACKING_NAME {
        return Err(format!(
            "the backing file's name has {len} bytes, more than {MAX_BACKING_NAME}"
        ));
    }
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|start| cluster.get(start..start.checked_add(len)?))
        .ok_or("the backing file's name lies outside the header cluster")?;
    Ok((to_usize(offset), file_name(bytes)?))
}

/// Finds room for a name of `len` bytes behind `end` that does not lie on the old one, except in
/// the first sector, which is written as a whole. If there is no such room, the old one's is used.
fn place_for_name(
    end: usize,
    len: usize,
    old: Option<(u64, u32)>,
    cluster: usize,
) -> Option<usize> {
    let fits = |at: usize| at + len <= cluster;
    let (old_start, old_end) =
        old.map_or((0, 0), |(at, n)| (to_usize(at), to_usize(at) + n as usize));
    let disjoint = |at: usize| {
        let (from, to) = (at.max(old_start).max(SECTOR), (at + len).min(old_end));
        from >= to
    };
    if fits(end) && disjoint(end) {
        return Some(end);
    }
    let behind = old_end.max(end).next_multiple_of(8);
    if fits(behind) {
        return Some(behind);
    }
    fits(end).then_some(end)
}

#[cfg(test)]
mod tests;
