//! [`FileHints`]: what a file system learns of a file that is to hold an image.
#![allow(unsafe_code)] // ioctl: what it reads and writes follows from its number.

use std::{fs::File, io};

use rustix::{
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    ioctl::{Getter, Opcode, Setter, ioctl, opcode},
};

/// How a new file is to be stored, where its file system can do that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileHints {
    /// What is written again stays where it is (btrfs).
    pub no_cow: bool,
    /// Bytes that are allocated at once (XFS); 0 to leave that to the file system.
    pub extent_size: u32,
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExtendedAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_EXTSIZE`.
const EXTENT_SIZE: u32 = 0x800;
/// `FS_IOC_FSGETXATTR`.
const GET: Opcode = opcode::read::<ExtendedAttributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: Opcode = opcode::write::<ExtendedAttributes>(b'X', 32);

impl FileHints {
    /// Whether there is nothing for the file system to know.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Tells the file system, when the file is empty. It may not be able to do that: for `no_cow`
    /// no matter, for the size of extents with a warning.
    pub(super) fn give(self, file: &File) {
        if self.no_cow {
            let flags = ioctl_getflags(file);
            let _ = flags.and_then(|flags| ioctl_setflags(file, flags | IFlags::NOCOW));
        }
        if self.extent_size > 0
            && let Err(error) = set_extent_size(file, self.extent_size)
        {
            tracing::warn!("Failed to set extent size hint: {error}");
        }
    }
}

fn set_extent_size(file: &File, bytes: u32) -> io::Result<()> {
    // SAFETY: with this number the kernel writes one `fsxattr`, which any bytes are.
    let getter = unsafe { Getter::<GET, ExtendedAttributes>::new() };
    // SAFETY: as above; the descriptor is open as long as `file` is borrowed.
    let mut attributes = unsafe { ioctl(file, getter) }?;
    attributes.flags |= EXTENT_SIZE;
    attributes.extent_size = bytes;
    // SAFETY: with this number the kernel reads one `fsxattr`.
    let setter = unsafe { Setter::<SET, ExtendedAttributes>::new(attributes) };
    // SAFETY: as above; the descriptor is open as long as `file` is borrowed.
    Ok(unsafe { ioctl(file, setter) }?)
}
