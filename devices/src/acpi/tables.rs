//! The static tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, and the DSDT in a module of its own.

use std::ops::Range;

use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};

use super::{SCI_GSI, hotplug::EventPorts, pm::PmBlock};
use crate::{
    checksum::checksum,
    legacy::{i8042::I8042, rtc},
};

mod dsdt;
mod files;

pub use files::files;

const OEM_ID: [u8; 6] = *b"STRATA";
const OEM_TABLE_ID: [u8; 8] = *b"STRATAVM";
const OEM_REVISION: u32 = 1;

/// Where KVM puts the local APICs and the I/O APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// The tables, as they go into guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Guest physical address of the first byte, which is also that of the RSDP. A guest to
    /// which it is not passed looks for it from 0xE0000 on.
    pub address: u64,
    /// What to put there; fits below 1 MiB. The range must be reserved in the memory map.
    pub bytes: Vec<u8>,
    /// Guest physical address of 32 bits in the FACS: where a guest that suspends to memory leaves
    /// the address at which it is to go on, in real mode (ACPI 6.5, 5.2.10).
    pub waking_vector: u64,
}

impl Tables {
    /// Start of the BIOS area, where guests search for the RSDP (ACPI 6.5, 5.2.5.1).
    pub const ADDRESS: u64 = 0xe_0000;
    /// What is left of the BIOS area is for [`crate::smbios`].
    pub const LIMIT: u64 = 0xf_0000;

    /// The tables of a machine with `cpus` CPUs (1 to 255), whose APIC ids count from 0.
    ///
    /// # Panics
    /// If there is no CPU: the machine's own mistake.
    pub fn build(cpus: u8) -> Self {
        // The RSDP comes first, but points at what follows it.
        let start = Rsdp::len().next_multiple_of(Blob::ALIGN);
        let (blob, roots) = Blob::build(cpus, narrow(Self::ADDRESS + start as u64));
        let mut bytes = rsdp(roots);
        bytes.resize(start, 0);
        bytes.extend(&blob.bytes);
        let end = Self::ADDRESS + bytes.len() as u64;
        assert!(end <= Self::LIMIT, "255 CPUs fit in a fraction of this");
        Self {
            address: Self::ADDRESS,
            bytes,
            waking_vector: u64::from(blob.base) + FACS_WAKING_VECTOR,
        }
    }
}

/// Addresses of the tables that name all others: the one of ACPI 1.0, which is all that some boot
/// loaders know, and the one of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Roots {
    rsdt: u32,
    xsdt: u32,
}

/// The RSDP's pointers (ACPI 6.5, 5.2.5.3).
const RSDP_RSDT: Field = Field { offset: 16, len: 4 };
const RSDP_XSDT: Field = Field { offset: 24, len: 8 };
/// Its two checksums: offset, and how many bytes from the start it covers. The second one covers
/// the first one, too.
const RSDP_CHECKSUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];

/// The root pointer.
fn rsdp(roots: Roots) -> Vec<u8> {
    let mut bytes = Vec::new();
    Rsdp::new(OEM_ID, roots.xsdt.into()).to_aml_bytes(&mut bytes);
    // The crate leaves this one out.
    bytes[RSDP_RSDT.offset..][..4].copy_from_slice(&roots.rsdt.to_le_bytes());
    for (at, len) in RSDP_CHECKSUMS {
        bytes[at] = 0;
        bytes[at] = checksum(&bytes[..len]);
    }
    bytes
}

/// All tables but the RSDP, one behind the other.
struct Blob {
    /// Guest physical address of the first byte, a multiple of [`Blob::ALIGN`].
    base: u32,
    bytes: Vec<u8>,
    /// Fields that hold a guest physical address within the blob.
    pointers: Vec<Field>,
    /// Tables in which there are such fields.
    pointing: Vec<Range<usize>>,
}

/// Where a field lies in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    offset: usize,
    len: u8,
}

impl Blob {
    /// The FACS needs this alignment, and it harms no other table.
    const ALIGN: usize = 64;

    /// The tables of a machine with `cpus` CPUs for the address `base`, and those with which to
    /// begin.
    fn build(cpus: u8, base: u32) -> (Self, Roots) {
        assert!(cpus > 0, "a machine without CPUs");
        let mut blob = Self {
            base,
            bytes: Vec::new(),
            pointers: Vec::new(),
            pointing: Vec::new(),
        };
        // First, where `Tables` says that it is.
        let facs = blob.append(&acpi_tables::facs::FACS::new());
        let dsdt = blob.append(&dsdt::build());
        let fadt = blob.append_with_pointers(&fadt(facs, dsdt), &FADT_POINTERS);
        let madt = blob.append(&madt(cpus));
        let tables = [fadt, madt];
        let pointers = |len: u8| {
            let offsets = (0..tables.len()).map(|number| ENTRIES + usize::from(len) * number);
            let pointers = offsets.map(|offset| Field { offset, len });
            pointers.collect::<Vec<_>>()
        };
        let mut rsdt = Sdt::new(
            *b"RSDT",
            narrow(ENTRIES as u64),
            1,
            OEM_ID,
            OEM_TABLE_ID,
            OEM_REVISION,
        );
        rsdt.append_slice(tables.map(u32::to_le_bytes).as_flattened());
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        for table in tables {
            xsdt.add_entry(table.into());
        }
        let roots = Roots {
            rsdt: blob.append_with_pointers(&rsdt, &pointers(4)),
            xsdt: blob.append_with_pointers(&xsdt, &pointers(8)),
        };
        (blob, roots)
    }

    /// Appends a table; returns its guest physical address.
    fn append(&mut self, table: &dyn Aml) -> u32 {
        self.append_with_pointers(table, &[])
    }

    /// The same for a table that points at others; `pointers` count from its start.
    fn append_with_pointers(&mut self, table: &dyn Aml, pointers: &[Field]) -> u32 {
        let start = self.bytes.len().next_multiple_of(Self::ALIGN);
        self.bytes.resize(start, 0);
        table.to_aml_bytes(&mut self.bytes);
        for &Field { offset, len } in pointers {
            let offset = start + offset;
            self.pointers.push(Field { offset, len });
        }
        if !pointers.is_empty() {
            self.pointing.push(start..self.bytes.len());
        }
        self.base + narrow::<u32>(start as u64)
    }
}

/// Offset in the FACS.
const FACS_WAKING_VECTOR: u64 = 12;
/// FIRMWARE_CTRL, DSDT and X_DSDT (ACPI 6.5, 5.2.9).
const FADT_POINTERS: [Field; 3] = [
    Field { offset: 36, len: 4 },
    Field { offset: 40, len: 4 },
    Field {
        offset: 140,
        len: 8,
    },
];
/// Where the entries of the RSDT and the XSDT begin.
const ENTRIES: usize = 36;

/// `value` in a field of a table. What stands in tables is this crate's own and fits.
fn narrow<T: TryFrom<u64>>(value: u64) -> T {
    let Ok(value) = T::try_from(value) else {
        unreachable!("{value:#x} does not fit in its field");
    };
    value
}

/// An I/O port register of the fixed hardware.
fn port(port: u64, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, port)
}

fn fadt(facs: u32, dsdt: u32) -> acpi_tables::fadt::FADT {
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .firmware_ctrl_32(facs)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The sleep button is not in the fixed registers; the power button and the alarm are.
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = narrow::<u16>(SCI_GSI.into()).into();
    // No C2 and no C3: latencies beyond what the specification calls usable.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.century = rtc::CENTURY;
    // The flag for an 8042 stays off: there is nothing to type on, and a driver need not look for
    // it.
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = port(I8042::COMMAND, 8, AccessSize::ByteAccess);
    fadt.reset_value = I8042::RESET;
    fadt.pm1a_evt_blk = narrow::<u32>(PmBlock::BASE).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(PmBlock::BASE, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = narrow::<u32>(PmBlock::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(PmBlock::PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.gpe0_blk = narrow::<u32>(EventPorts::BASE).into();
    fadt.gpe0_blk_len = narrow(EventPorts::LEN);
    fadt.x_gpe0_blk = port(EventPorts::BASE, 32, AccessSize::ByteAccess);
    fadt.pm_tmr_blk = narrow::<u32>(PmBlock::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(PmBlock::PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.finalize()
}

/// MADT (ACPI 6.5, 5.2.12). Built by hand from the crate's structures, as its own builder knows
/// neither the flag for the 8259s nor interrupt source overrides.
fn madt(cpus: u8) -> Sdt {
    const HEADER: u32 = 44;
    const REVISION: u8 = 5;
    const ADDRESS_OFFSET: usize = 36;
    const FLAGS_OFFSET: usize = 40;
    /// Two 8259s are there, too.
    const PCAT_COMPAT: u32 = 1;
    let mut madt = Sdt::new(
        *b"APIC",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    madt.write_u32(ADDRESS_OFFSET, LOCAL_APIC);
    madt.write_u32(FLAGS_OFFSET, PCAT_COMPAT);
    let mut structures = Vec::new();
    for cpu in 0..cpus {
        ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled).to_aml_bytes(&mut structures);
    }
    IoApic::new(0, IO_APIC, 0).to_aml_bytes(&mut structures);
    // The timer, IRQ 0, is wired to pin 2. All other ISA interrupts keep their number.
    structures.extend(source_override(0, 2, BUS_DEFAULT));
    let sci = narrow(SCI_GSI.into());
    structures.extend(source_override(sci, SCI_GSI, ACTIVE_HIGH | LEVEL));
    madt.append_slice(&structures);
    madt
}

/// MPS INTI flags: polarity and trigger mode as the bus has them (ISA: active high, edge).
const BUS_DEFAULT: u16 = 0;
const ACTIVE_HIGH: u16 = 0b01;
const LEVEL: u16 = 0b11 << 2;

/// An interrupt source override structure (ACPI 6.5, 5.2.12.5).
fn source_override(irq: u8, gsi: u32, flags: u16) -> [u8; 10] {
    const TYPE: u8 = 2;
    const ISA: u8 = 0;
    let [g0, g1, g2, g3] = gsi.to_le_bytes();
    let [f0, f1] = flags.to_le_bytes();
    [TYPE, 10, ISA, irq, g0, g1, g2, g3, f0, f1]
}

#[cfg(test)]
mod tests;
