//! Descriptor chains, free of how the driver has cut them up (virtio 1.2, 2.7.4.2: a device must
//! not rely on the arrangement of descriptors).

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Pieces of guest memory that together are one run of bytes. Addresses are the guest's and
/// unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces(Vec<(GuestAddress, u32)>);

impl Pieces {
    /// Appends a piece; one without bytes is left out.
    pub fn push(&mut self, address: GuestAddress, len: u32) {
        if len != 0 {
            self.0.push((address, len));
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|piece| u64::from(piece.1)).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Addresses and lengths.
    pub fn as_slice(&self) -> &[(GuestAddress, u32)] {
        &self.0
    }

    /// Cuts the last byte off and returns its address.
    pub fn take_last_byte(&mut self) -> Option<GuestAddress> {
        let (address, len) = self.0.last_mut()?;
        *len -= 1;
        let byte = address.0.checked_add(u64::from(*len)).map(GuestAddress);
        if *len == 0 {
            self.0.pop();
        }
        byte
    }

    /// Copies the first `buffer.len()` bytes out of guest memory and cuts them off; `None` if there
    /// are fewer, or they are not in guest memory.
    pub fn take_front(&mut self, memory: &GuestMemoryMmap, buffer: &mut [u8]) -> Option<()> {
        if self.len() < buffer.len() as u64 {
            return None;
        }
        let mut rest = buffer;
        let mut whole = 0;
        for (address, len) in &mut self.0 {
            let n = rest.len().min(*len as usize);
            let (now, later) = rest.split_at_mut(n);
            memory.read_slice(now, *address).ok()?;
            rest = later;
            if n < *len as usize {
                *address = GuestAddress(address.0.checked_add(n as u64)?);
                *len -= u32::try_from(n).expect("no more than there is");
                break;
            }
            whole += 1;
        }
        self.0.drain(..whole);
        Some(())
    }
}

/// One request in a ring.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of its first descriptor: how it is named in the used ring.
    pub head: u16,
    /// What the driver gives to the device.
    pub readable: Pieces,
    /// What the device gives to the driver.
    pub writable: Pieces,
}
