//! [`Identity`]: what a name leads to, whichever of its names was used.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use super::nbd::{self, is_nbd_uri};
use crate::nbd::wire::Address;

/// What holds the bytes behind a name. Two names of one file (another spelling, a symbolic or a
/// hard link, another node of the same device) have the same.
///
/// Only what is open keeps its identity: a file that was removed leaves its own to others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A file of the host.
    File {
        /// The file system (`st_dev`).
        device: u64,
        /// The file in it (`st_ino`).
        inode: u64,
    },
    /// A device of the host, by its number (`st_rdev`).
    Device(u64),
    /// An export of an NBD server. That two exports are different does not mean that their bytes
    /// are.
    Export {
        /// The server.
        address: Address,
        /// The export's name.
        name: String,
    },
    /// A simulated file.
    #[cfg(feature = "sim")]
    Sim(u64),
}

impl Identity {
    /// What `path` leads to on the host now; links are followed. An export is not asked for.
    ///
    /// # Errors
    /// The host's error: mostly that nothing is there.
    pub fn of(path: &Path) -> io::Result<Self> {
        if is_nbd_uri(path) {
            return nbd::identity_of(path).map_err(io::Error::other);
        }
        path.metadata().map(|meta| Self::from(&meta))
    }
}

impl From<&Metadata> for Identity {
    fn from(meta: &Metadata) -> Self {
        let kind = meta.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            return Self::Device(meta.rdev());
        }
        Self::File {
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

#[cfg(test)]
mod tests;
