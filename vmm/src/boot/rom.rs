//! Firmware: which file, and where it lies in the guest.

use std::{io, path::Path};

use strata_exec::mem::to_usize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Source};
use crate::layout;

/// Where packages put SeaBIOS as it is built for QEMU's machine of today, larger than the
/// `bios.bin` for old ones: Debian and Fedora, QEMU itself (Arch, openSUSE), and what is built by
/// hand.
const PLACES: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/local/share/qemu/bios-256k.bin",
];

/// Sizes are a multiple of this, as the memory map's parts are.
const UNIT: u64 = 64 << 10;
/// As with QEMU.
const MAX_LEN: u64 = 16 << 20;
/// How much of its end shows below 1 MiB, too, where a processor in real mode goes on.
const MAX_COPY: u64 = 128 << 10;

/// Firmware in read-only memory that ends at 4 GiB, where a processor starts.
pub struct Rom {
    bytes: Vec<u8>,
}

impl Rom {
    /// Reads `path`, or the first that is found where packages put it.
    ///
    /// # Errors
    /// [`BootError`] if there is none, or it cannot be read or be firmware.
    pub fn open(path: Option<&Path>) -> Result<Self, BootError> {
        let found = || PLACES.iter().map(Path::new).find(|path| path.is_file());
        let path = path.or_else(found).ok_or(BootError::NoFirmware)?;
        let source = Source::open("firmware", path)?;
        let len = source.len()?;
        if len == 0 || len > MAX_LEN || !len.is_multiple_of(UNIT) {
            let path = source.path;
            return Err(BootError::NotFirmware { path, len });
        }
        let mut bytes = Vec::new();
        let read = io::Read::read_to_end(&mut &source.file, &mut bytes);
        read.map_err(|error| source.error(error))?;
        if bytes.len() as u64 != len {
            return Err(source.error(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self { bytes })
    }

    /// Memory that holds it, for where it lies.
    ///
    /// # Errors
    /// The host's.
    pub fn memory(&self) -> Result<GuestMemoryMmap, BootError> {
        let start = GuestAddress((1 << 32) - self.bytes.len() as u64);
        let memory = GuestMemoryMmap::from_ranges(&[(start, self.bytes.len())])
            .map_err(BootError::RomMemory)?;
        memory.write_slice(&self.bytes, start)?;
        Ok(memory)
    }

    /// Puts the copy of its end below 1 MiB, in memory that firmware will write to.
    ///
    /// # Errors
    /// The guest has no memory there.
    pub fn load_copy(&self, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        let len = self.bytes.len().min(to_usize(MAX_COPY));
        let end = &self.bytes[self.bytes.len() - len..];
        let start = GuestAddress(layout::EXTENDED - len as u64);
        Ok(memory.write_slice(end, start)?)
    }
}

#[cfg(test)]
mod tests;
