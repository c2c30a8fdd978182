//! Which file systems a disk holds, so that the guest gets their modules and no others.

use std::rc::Rc;

use strata_block::{
    disk::{Disk, Op, Request},
    engine::Engine,
};
use strata_exec::mem::{SgList, to_usize};

use super::TestError;
use crate::{
    cli::{
        disk::{DiskOption, Numbering},
        temporary::TemporaryArgs,
    },
    machine::disks::spec,
};

/// A file system that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 and ext4, which one driver knows.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// squashfs.
    Squashfs,
    /// ISO 9660.
    Iso9660,
}

impl Kind {
    /// The name for mount(2).
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "iso9660",
        }
    }

    /// The kernel's module.
    pub fn module(self) -> &'static str {
        match self {
            Self::Iso9660 => "isofs",
            other => other.name(),
        }
    }
}

/// Where each has its mark, in bytes from its start.
const MARKS: [(u64, &[u8], Kind); 5] = [
    (0x438, &[0x53, 0xef], Kind::Ext4),
    (0, b"XFSB", Kind::Xfs),
    (0x1_0040, b"_BHRfS_M", Kind::Btrfs),
    (0, b"hsqs", Kind::Squashfs),
    (0x8001, b"CD001", Kind::Iso9660),
];
/// Bytes from the start of a file system that hold every mark, in whole sectors.
const MARKED: u64 = 0x1_0200;

const SECTOR: u64 = 512;
/// Partitions that are looked at.
const PARTITIONS: u64 = 128;

/// The file systems on the disk or its partitions.
///
/// # Errors
/// The disk cannot be read, or there is none that is known.
pub fn find(option: &DiskOption) -> Result<Vec<Kind>, TestError> {
    let option = DiskOption {
        read_only: true,
        ..option.clone()
    };
    let place = Numbering::default().place(&option);
    let engine = Engine::new(|_| {}).map_err(super::file_error("open", &option.file))?;
    let disk = engine
        .open_disk(spec(&option, &place, &TemporaryArgs::default()))
        .map_err(TestError::Root)?;
    let look = Look {
        engine: &engine,
        disk: &disk,
    };
    let mut kinds: Vec<Kind> = Vec::new();
    for start in look.starts()? {
        match look.kind_at(start)? {
            Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
            _ => {}
        }
    }
    if kinds.is_empty() {
        return Err(TestError::NoFileSystem(option.file));
    }
    Ok(kinds)
}

struct Look<'a> {
    engine: &'a Rc<Engine>,
    disk: &'a Disk,
}

impl Look<'_> {
    /// Bytes of the disk, whole sectors; zeros behind its end.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, TestError> {
        let end = self.disk.info().size;
        let data = SgList::zeroed(to_usize(len));
        let there = len.min(end.saturating_sub(offset));
        if there > 0 {
            let request = Request {
                op: Op::Read,
                offset,
                len: there,
                data: data.slice(0, to_usize(there)),
            };
            let disk = self.disk.clone();
            let done = self
                .engine
                .exec()
                .block_on(async move { disk.run(request).await });
            done.map_err(|error| TestError::Root(error.into()))?;
        }
        Ok(data.to_vec())
    }

    fn kind_at(&self, start: u64) -> Result<Option<Kind>, TestError> {
        let bytes = self.read(start, MARKED)?;
        let found = MARKS
            .iter()
            .find(|(at, mark, _)| bytes[to_usize(*at)..].starts_with(mark));
        Ok(found.map(|&(_, _, kind)| kind))
    }

    /// Where file systems may begin: the disk itself, and its partitions (MBR's four, or GPT's).
    fn starts(&self) -> Result<Vec<u64>, TestError> {
        const TABLE: usize = 446;
        const ENTRY: usize = 16;
        const PROTECTIVE: u8 = 0xee;
        let mut starts = vec![0];
        let sector = self.read(0, SECTOR)?;
        if sector[510..] != [0x55, 0xaa] {
            return Ok(starts);
        }
        for entry in sector[TABLE..510].chunks_exact(ENTRY) {
            match entry[4] {
                0 => {}
                PROTECTIVE => starts.extend(self.gpt()?),
                _ => starts.push(u64::from(u32_at(entry, 8)) * SECTOR),
            }
        }
        Ok(starts)
    }

    /// UEFI specification, 5.3.
    fn gpt(&self) -> Result<Vec<u64>, TestError> {
        let header = self.read(SECTOR, SECTOR)?;
        let (table, count, size) = (
            u64_at(&header, 72),
            u32_at(&header, 80),
            u32_at(&header, 84),
        );
        if !header.starts_with(b"EFI PART") || size != 128 {
            return Ok(Vec::new());
        }
        let len = u64::from(count).min(PARTITIONS) * 128;
        let entries = self.read(table.saturating_mul(SECTOR), len.next_multiple_of(SECTOR))?;
        let used = entries
            .chunks_exact(128)
            .filter(|entry| entry[..16] != [0; 16]);
        Ok(used
            .map(|entry| u64_at(entry, 32).saturating_mul(SECTOR))
            .collect())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
