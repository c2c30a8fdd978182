//! MSI-X: the vector table, its masks and its pending bits (PCI 3.0, 6.8.2 and 6.8.3).

use std::io;
use strata_exec::mem::to_usize;

use crate::host::{MsiMessage, MsiVector, PciHost};

/// Capability id of MSI-X.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes of one table entry.
pub const ENTRY_LEN: usize = 16;
/// Offset of message control in the capability.
pub const CONTROL: usize = 2;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
/// Offset of vector control in an entry; its bit 0 is the mask, the others are reserved.
const VECTOR_CONTROL: usize = 12;
const VECTOR_MASK: u8 = 1;

struct Entry {
    /// As the guest sees it: address, data, vector control.
    raw: [u8; ENTRY_LEN],
    vector: Box<dyn MsiVector>,
    /// Where the vector goes at present.
    routed: Option<MsiMessage>,
    pending: bool,
}

impl Entry {
    fn message(&self) -> MsiMessage {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, ..] = self.raw;
        MsiMessage {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            data: u32::from_le_bytes([d0, d1, d2, d3]),
        }
    }

    /// Routes the vector as the masks say, and sends what has been waiting.
    fn update(&mut self, unmasked: bool) {
        let wanted =
            (unmasked && self.raw[VECTOR_CONTROL] & VECTOR_MASK == 0).then(|| self.message());
        if wanted != self.routed {
            self.routed = match self.vector.route(wanted) {
                Ok(()) => wanted,
                Err(error) => {
                    tracing::warn!(%error, "an MSI-X vector could not be routed");
                    None
                }
            };
        }
        if self.routed.is_some() && std::mem::take(&mut self.pending) {
            self.send();
        }
    }

    fn send(&self) {
        if let Err(error) = self.vector.eventfd().write(1) {
            tracing::warn!(%error, "an MSI-X vector could not be signalled");
        }
    }
}

/// The MSI-X table and pending bit array of one function.
pub struct MsixTable {
    entries: Vec<Entry>,
    enabled: bool,
    mask_all: bool,
}

impl MsixTable {
    /// A table of `len` masked vectors (1 to 2048), off until the guest enables it.
    ///
    /// # Errors
    /// The host's error if it cannot give so many vectors.
    pub fn new(host: &dyn PciHost, len: u16) -> io::Result<Self> {
        let entries = (0..len)
            .map(|_| {
                Ok(Entry {
                    raw: masked_entry(),
                    vector: host.new_vector()?,
                    routed: None,
                    pending: false,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            entries,
            enabled: false,
            mask_all: false,
        })
    }

    /// Vectors in the table.
    pub fn len(&self) -> u16 {
        u16::try_from(self.entries.len()).expect("a table has 2048 entries at most")
    }

    /// The capability's bytes after id and next pointer, and which of their bits a guest may
    /// write: message control, then where table and pending bits are (offsets in BAR `bar`,
    /// multiples of 8).
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(self.len() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        (body, (CONTROL_ENABLE | CONTROL_MASK_ALL).to_le_bytes())
    }

    /// Whether the guest has enabled MSI-X, and so gave up the function's pin.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Takes over message control after the guest has written it.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.mask_all = control & CONTROL_MASK_ALL != 0;
        let unmasked = self.unmasked();
        for entry in &mut self.entries {
            // Turned off, a function has no messages: nothing stays behind for the next driver.
            entry.pending &= self.enabled;
            entry.update(unmasked);
        }
    }

    /// Sends vector `index`, or remembers it while it is masked. A number outside the table, or a
    /// table that is off, sends nothing.
    pub fn signal(&mut self, index: u16) {
        let enabled = self.enabled;
        if let Some(entry) = self.entries.get_mut(usize::from(index)).filter(|_| enabled) {
            if entry.routed.is_some() {
                entry.send();
            } else {
                entry.pending = true;
            }
        }
    }

    /// The guest reads the table at byte `offset`.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let (index, within) = split(at);
            if let Some(entry) = self.entries.get(index) {
                *byte = entry.raw[within];
            }
        }
    }

    /// The guest writes the table at byte `offset`; aligned accesses of 4 and 8 bytes mean
    /// something (6.8.2), others are dropped.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let len = data.len();
        let unmasked = self.unmasked();
        let (index, within) = split(offset);
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        if !matches!(len, 4 | 8) || !within.is_multiple_of(len) {
            return;
        }
        entry.raw[within..within + len].copy_from_slice(data);
        entry.raw[VECTOR_CONTROL] &= VECTOR_MASK;
        entry.raw[VECTOR_CONTROL + 1..].fill(0);
        entry.update(unmasked);
    }

    /// The guest reads the pending bits at byte `offset`.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            *byte = (0..8)
                .filter(|bit| {
                    let entry = self.entries.get(first.saturating_add(*bit));
                    entry.is_some_and(|entry| entry.pending)
                })
                .fold(0, |byte, bit| byte | 1 << bit);
        }
    }

    /// Back to all masked and off.
    pub fn reset(&mut self) {
        for entry in &mut self.entries {
            entry.raw = masked_entry();
        }
        self.set_control(0);
    }

    fn unmasked(&self) -> bool {
        self.enabled && !self.mask_all
    }
}

fn masked_entry() -> [u8; ENTRY_LEN] {
    let mut raw = [0; ENTRY_LEN];
    raw[VECTOR_CONTROL] = VECTOR_MASK;
    raw
}

/// Entry number and byte within it.
fn split(offset: u64) -> (usize, usize) {
    let len = ENTRY_LEN as u64;
    let index = usize::try_from(offset / len).unwrap_or(usize::MAX);
    (index, to_usize(offset % len))
}

#[cfg(test)]
mod tests;
