//! What the machine is called, and how large it is, in the form of a PC's BIOS (SMBIOS 2.8, DMTF
//! DSP0134): `dmidecode` and `/sys/class/dmi/id` show it.

use crate::checksum::checksum;

/// Tables and what leads to them, as firmware wants them, or to be put into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smbios {
    /// The entry point structure. It holds an address, which must be set before a guest sees it.
    pub anchor: Vec<u8>,
    /// The structures, one behind the other.
    pub tables: Vec<u8>,
}

/// A machine, as far as it is described.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Number of processors.
    pub cpus: u8,
    /// Bytes of memory from address 0 up to the PCI hole.
    pub below_4g: u64,
    /// Bytes of memory from 4 GiB on.
    pub above_4g: u64,
}

const MAKER: &str = "Strata";
const PRODUCT: &str = "Strata virtual machine";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Kernels take a BIOS without a date for one of the last century.
const DATE: &str = "01/01/2026";

const ANCHOR_LEN: u8 = 0x1f;
const MAJOR: u8 = 2;
const MINOR: u8 = 8;

/// Kinds of structures.
mod kind {
    pub const BIOS: u8 = 0;
    pub const SYSTEM: u8 = 1;
    pub const CHASSIS: u8 = 3;
    pub const PROCESSOR: u8 = 4;
    pub const MEMORY_ARRAY: u8 = 16;
    pub const MEMORY_DEVICE: u8 = 17;
    pub const MEMORY_RANGE: u8 = 19;
    pub const BOOT: u8 = 32;
    pub const END: u8 = 127;
}

/// Handles: the kind, and a number below.
const fn handle(kind: u8, number: u8) -> u16 {
    (kind as u16) << 8 | number as u16
}

const ARRAY: u16 = handle(kind::MEMORY_ARRAY, 0);
const NONE: u16 = 0xffff;
/// In place of a structure about errors.
const NO_ERRORS: u16 = 0xfffe;
const UNKNOWN_WIDTH: u16 = 0xffff;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// In a field that is too narrow for a size: look at the other field.
const SIZE_IS_ELSEWHERE: u16 = 0x7fff;
const CAPACITY_IS_ELSEWHERE: u32 = 1 << 31;
const START_IS_ELSEWHERE: u32 = u32::MAX;

impl Smbios {
    /// Where guests look for the anchor, on multiples of 16: up to 1 MiB from here on.
    pub const ADDRESS: u64 = 0xf_0000;

    /// Describes `machine`.
    pub fn build(machine: &Described) -> Self {
        let mut structures = Structures::default();
        structures.add_names();
        structures.add_processor(machine.cpus);
        structures.add_memory(machine);
        structures.add(Structure::new(kind::BOOT, 0).bytes([0; 7]));
        structures.add(Structure::new(kind::END, 0));
        let anchor = structures.anchor();
        let tables = structures.bytes;
        Self { anchor, tables }
    }

    /// The bytes to put at [`Smbios::ADDRESS`]: the anchor, and the tables that it points to.
    pub fn at_its_address(mut self) -> Vec<u8> {
        let start = self.anchor.len().next_multiple_of(16);
        let address = Self::ADDRESS + start as u64;
        let address = u32::try_from(address).expect("the tables lie below 1 MiB");
        self.anchor[24..28].copy_from_slice(&address.to_le_bytes());
        set_checksums(&mut self.anchor);
        self.anchor.resize(start, 0);
        [self.anchor, self.tables].concat()
    }
}

/// One structure: its fixed part, then its texts.
struct Structure {
    fixed: Vec<u8>,
    texts: Vec<&'static str>,
}

impl Structure {
    fn new(kind: u8, number: u8) -> Self {
        let [low, high] = handle(kind, number).to_le_bytes();
        // The length is set when it is known.
        let fixed = vec![kind, 0, low, high];
        let texts = Vec::new();
        Self { fixed, texts }
    }

    fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.fixed.extend(bytes.as_ref());
        self
    }

    fn word(self, value: u16) -> Self {
        self.bytes(value.to_le_bytes())
    }

    fn dword(self, value: u32) -> Self {
        self.bytes(value.to_le_bytes())
    }

    fn qword(self, value: u64) -> Self {
        self.bytes(value.to_le_bytes())
    }

    /// A text: its number stands here, itself behind the fixed part.
    fn text(mut self, text: &'static str) -> Self {
        self.texts.push(text);
        let number = u8::try_from(self.texts.len()).expect("a structure has few texts");
        self.fixed.push(number);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        self.fixed[1] = u8::try_from(self.fixed.len()).expect("fixed parts are short");
        for text in &self.texts {
            self.fixed.extend(text.bytes().chain([0]));
        }
        if self.texts.is_empty() {
            self.fixed.push(0);
        }
        self.fixed.push(0);
        self.fixed
    }
}

#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
    longest: u16,
}

impl Structures {
    fn add(&mut self, structure: Structure) {
        let bytes = structure.finish();
        self.count += 1;
        let len = u16::try_from(bytes.len()).expect("structures are short");
        self.longest = self.longest.max(len);
        self.bytes.extend(bytes);
    }

    fn add_names(&mut self) {
        const NO_CHARACTERISTICS: u64 = 1 << 3;
        /// The tables describe a virtual machine.
        const EXTENSION: [u8; 2] = [0, 1 << 4];
        const NO_EMBEDDED_CONTROLLER: [u8; 2] = [0xff; 2];
        let bios = Structure::new(kind::BIOS, 0)
            .text(MAKER)
            .text(VERSION)
            .word(0xf000)
            .text(DATE)
            .bytes([0])
            .qword(NO_CHARACTERISTICS)
            .bytes(EXTENSION)
            .bytes([0, 0])
            .bytes(NO_EMBEDDED_CONTROLLER);
        self.add(bios);
        const NO_UUID: [u8; 16] = [0; 16];
        const BY_POWER_SWITCH: u8 = 6;
        let system = Structure::new(kind::SYSTEM, 0)
            .text(MAKER)
            .text(PRODUCT)
            .text(VERSION)
            .bytes([0])
            .bytes(NO_UUID)
            .bytes([BY_POWER_SWITCH, 0, 0]);
        self.add(system);
        const OTHER: u8 = 1;
        const SAFE: u8 = 3;
        const NO_SECURITY: u8 = 3;
        let chassis = Structure::new(kind::CHASSIS, 0)
            .text(MAKER)
            .bytes([OTHER])
            .text(VERSION)
            .bytes([0, 0, SAFE, SAFE, SAFE, NO_SECURITY])
            .dword(0)
            .bytes([0; 4]);
        self.add(chassis);
    }

    /// One package, with as many cores as there are processors.
    fn add_processor(&mut self, cpus: u8) {
        const CENTRAL: u8 = 3;
        const OTHER: u8 = 1;
        const POPULATED_AND_ENABLED: u8 = 0x41;
        const IS_64_BIT: u16 = 1 << 2;
        let processor = Structure::new(kind::PROCESSOR, 0)
            .text("CPU 0")
            .bytes([CENTRAL, OTHER])
            .text(MAKER)
            .qword(0)
            .text(VERSION)
            .bytes([0])
            .bytes([0; 6])
            .bytes([POPULATED_AND_ENABLED, OTHER])
            .word(NONE)
            .word(NONE)
            .word(NONE)
            .bytes([0; 3])
            .bytes([cpus; 3])
            .word(IS_64_BIT)
            .word(OTHER.into());
        self.add(processor);
    }

    fn add_memory(&mut self, machine: &Described) {
        const OTHER: u8 = 1;
        const SYSTEM_MEMORY: u8 = 3;
        const NO_CORRECTION: u8 = 3;
        const DIMM: u8 = 9;
        const RAM: u8 = 7;
        const OTHER_DETAIL: u16 = 1 << 1;
        let size = machine.below_4g + machine.above_4g;
        let kib = u32::try_from(size / KIB).ok();
        let kib = kib.filter(|&kib| kib < CAPACITY_IS_ELSEWHERE);
        let array = Structure::new(kind::MEMORY_ARRAY, 0)
            .bytes([OTHER, SYSTEM_MEMORY, NO_CORRECTION])
            .dword(kib.unwrap_or(CAPACITY_IS_ELSEWHERE))
            .word(NO_ERRORS)
            .word(1)
            .qword(if kib.is_some() { 0 } else { size });
        self.add(array);
        let mib = u16::try_from(size / MIB).ok();
        let mib = mib.filter(|&mib| mib < SIZE_IS_ELSEWHERE);
        let extended = if mib.is_some() { 0 } else { size / MIB };
        let device = Structure::new(kind::MEMORY_DEVICE, 0)
            .word(ARRAY)
            .word(NO_ERRORS)
            .word(UNKNOWN_WIDTH)
            .word(UNKNOWN_WIDTH)
            .word(mib.unwrap_or(SIZE_IS_ELSEWHERE))
            .bytes([DIMM, 0])
            .text("DIMM 0")
            .bytes([0, RAM])
            .word(OTHER_DETAIL)
            .word(0)
            .text(MAKER)
            .bytes([0; 4])
            .dword(u32::try_from(extended).unwrap_or(u32::MAX))
            .bytes([0; 8]);
        self.add(device);
        let ranges = [(0, machine.below_4g), (1 << 32, machine.above_4g)];
        for (number, (start, len)) in (0..).zip(ranges) {
            if len > 0 {
                self.add_range(number, start, start + len - 1);
            }
        }
    }

    /// From `start` to `end`, its last byte.
    fn add_range(&mut self, number: u8, start: u64, end: u64) {
        let (first, last) = (start / KIB, end / KIB);
        let narrow = u32::try_from(last).is_ok();
        let field = |kib: u64| u32::try_from(kib).unwrap_or(START_IS_ELSEWHERE);
        let (extended_start, extended_end) = if narrow { (0, 0) } else { (start, end) };
        let (first, last) = if narrow {
            (field(first), field(last))
        } else {
            (START_IS_ELSEWHERE, START_IS_ELSEWHERE)
        };
        let range = Structure::new(kind::MEMORY_RANGE, number)
            .dword(first)
            .dword(last)
            .word(ARRAY)
            .bytes([1])
            .qword(extended_start)
            .qword(extended_end);
        self.add(range);
    }

    fn anchor(&self) -> Vec<u8> {
        let mut anchor = b"_SM_\0".to_vec();
        anchor.extend([ANCHOR_LEN, MAJOR, MINOR]);
        anchor.extend(self.longest.to_le_bytes());
        anchor.extend([0; 6]);
        anchor.extend(b"_DMI_\0");
        let len = u16::try_from(self.bytes.len()).expect("structures are short and few");
        anchor.extend(len.to_le_bytes());
        anchor.extend([0; 4]);
        anchor.extend(self.count.to_le_bytes());
        anchor.push(MAJOR << 4 | MINOR);
        set_checksums(&mut anchor);
        anchor
    }
}

/// The sum of the second part, and the sum of all, are zero.
fn set_checksums(anchor: &mut [u8]) {
    for (from, at) in [(16, 21), (0, 4)] {
        anchor[at] = 0;
        anchor[at] = checksum(&anchor[from..]);
    }
}

#[cfg(test)]
mod tests;
