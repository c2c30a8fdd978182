//! Configuration space of one function (PCI 3.0, chapter 6), header type 0.
//!
//! Every byte has a mask of the bits that a guest may change. BAR sizing needs nothing more: the
//! bits below a BAR's size are not writable, so all ones read back as the size's complement.

use bitflags::bitflags;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Where the standard header ends and capabilities begin.
const HEADER_LEN: usize = 0x40;
/// Bytes of configuration space.
pub(crate) const CONFIG_LEN: usize = 256;

const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

bitflags! {
    /// The command register's bits that mean something here (6.2.2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Command: u16 {
        /// I/O BARs are decoded.
        const IO = 1 << 0;
        /// Memory BARs are decoded.
        const MEMORY = 1 << 1;
        /// The function may read and write memory and send messages.
        const BUS_MASTER = 1 << 2;
        /// The function's INTx pin stays low.
        const INTX_DISABLE = 1 << 10;
    }
}

/// What a function says it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, subclass and programming interface, from the high byte down.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor id and subsystem id.
    pub subsystem: (u16, u16),
    /// The device has functions other than 0.
    pub multi_function: bool,
}

/// What a BAR decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    /// Ports.
    Io,
    /// Memory; takes two registers.
    Memory64,
}

/// The address space of a decoded range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Port I/O.
    Io,
    /// Memory.
    Memory,
}

/// A BAR that is decoded at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BarRange {
    /// Number of the BAR (of its low register).
    pub bar: usize,
    /// Where `base` is an address.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// Configuration space: registers, and which of their bits a guest may write.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_LEN],
    writable: [u8; CONFIG_LEN],
    /// What [`ConfigSpace::reset`] goes back to.
    initial: [u8; CONFIG_LEN],
    bars: [Option<(BarKind, u64)>; 6],
    /// Offset of the byte that points at the next capability to be added, and where that goes.
    link: usize,
    free: usize,
}

impl ConfigSpace {
    /// The space of a function without BARs, capabilities or interrupt pin; the command register
    /// is 0 and writable.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_LEN],
            writable: [0; CONFIG_LEN],
            initial: [0; CONFIG_LEN],
            bars: [None; 6],
            link: CAPABILITIES,
            free: HEADER_LEN,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(
            0x08,
            &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes(),
        );
        space.put(0x0e, &[u8::from(identity.multi_function) << 7]);
        space.put(0x2c, &identity.subsystem.0.to_le_bytes());
        space.put(0x2e, &identity.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &Command::all().bits().to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR `bar` of `size` bytes at `address`, and turns decoding of its space on.
    ///
    /// # Panics
    /// If the size is not a power of two, the address not a multiple of it, or the register taken:
    /// devices are laid out in code.
    pub(crate) fn add_bar(&mut self, bar: usize, kind: BarKind, size: u64, address: u64) {
        assert!(size.is_power_of_two() && size >= 16 && address.is_multiple_of(size));
        assert!(self.bars[bar].is_none());
        let (flags, command) = match kind {
            BarKind::Io => (0b001, Command::IO),
            BarKind::Memory64 => (0b100, Command::MEMORY),
        };
        let width = match kind {
            BarKind::Io => 4,
            BarKind::Memory64 => 8,
        };
        let offset = BAR0 + 4 * bar;
        self.put(offset, &(address | flags).to_le_bytes()[..width]);
        self.allow(offset, &(!(size - 1)).to_le_bytes()[..width]);
        self.bars[bar] = Some((kind, size));
        self.enable(command);
    }

    /// Sets bits of the command register that stay set after a reset.
    pub fn enable(&mut self, command: Command) {
        self.put(COMMAND, &(self.command() | command).bits().to_le_bytes());
    }

    /// Says that the function drives INTA#, and which ISA interrupt a BIOS has that lead to.
    pub(crate) fn set_interrupt(&mut self, irq: u8) {
        self.put(INTERRUPT_LINE, &[irq]);
        self.put(INTERRUPT_PIN, &[1]);
    }

    /// Appends a capability (6.7): `body` is what follows its id and next pointer, `writable` the
    /// bits of it that a guest may change (as long as `body`, or shorter). Returns its offset.
    ///
    /// # Panics
    /// If configuration space is full.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let offset = self.free;
        self.put(offset, &[id, 0]);
        self.put(offset + 2, body);
        self.allow(offset + 2, writable);
        let link = u8::try_from(offset).expect("configuration space has 256 bytes");
        self.put(self.link, &[link]);
        self.put(STATUS, &[self.bytes[STATUS] | STATUS_CAPABILITIES]);
        self.link = offset + 1;
        self.free = (offset + 2 + body.len()).next_multiple_of(4);
        offset
    }

    /// Sets bytes that stay after a reset, whatever a guest may write there.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.initial[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest change the bits of `mask` from `offset` on.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// A guest's read. What lies outside the space is left as it is in `data`.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *byte = *value;
        }
    }

    /// A guest's write: changes the writable bits.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, mask), new) in registers.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(self.u16_at(COMMAND))
    }

    /// Shows in the status register whether the function wants its pin high.
    pub(crate) fn set_interrupt_status(&mut self, pending: bool) {
        self.bytes[STATUS] &= !STATUS_INTERRUPT;
        if pending {
            self.bytes[STATUS] |= STATUS_INTERRUPT;
        }
    }

    /// Where BAR `bar` is decoded, if it is.
    pub(crate) fn bar(&self, bar: usize) -> Option<BarRange> {
        let (kind, len) = (*self.bars.get(bar)?)?;
        let offset = BAR0 + 4 * bar;
        let low = u64::from(self.u32_at(offset)) & !(len - 1);
        let (base, space, needs) = match kind {
            BarKind::Io => (low, Space::Io, Command::IO),
            BarKind::Memory64 => {
                let high = u64::from(self.u32_at(offset + 4)) << 32;
                (high | low, Space::Memory, Command::MEMORY)
            }
        };
        self.command().contains(needs).then_some(BarRange {
            bar,
            space,
            base,
            len,
        })
    }

    /// All BARs that are decoded.
    pub(crate) fn decoded(&self) -> impl Iterator<Item = BarRange> + '_ {
        (0..self.bars.len()).filter_map(|bar| self.bar(bar))
    }

    /// As a function is that nobody has configured: no addresses, nothing decoded. After a reset it
    /// is as it was made, as if it had been there when the machine started.
    pub(crate) fn unconfigure(&mut self) {
        self.bytes[COMMAND..COMMAND + 2].fill(0);
        for (bar, kind) in self.bars.into_iter().enumerate() {
            let width = match kind {
                None => continue,
                Some((BarKind::Memory64, _)) => 8,
                Some((BarKind::Io, _)) => 4,
            };
            let registers = BAR0 + 4 * bar..BAR0 + 4 * bar + width;
            for (byte, writable) in self.bytes[registers.clone()]
                .iter_mut()
                .zip(&self.writable[registers])
            {
                *byte &= !writable;
            }
        }
    }

    /// Goes back to what the function was made with.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// The 16-bit register at `offset`.
    pub(crate) fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// The 32-bit register at `offset`.
    pub fn u32_at(&self, offset: usize) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }
}

#[cfg(test)]
mod tests;
