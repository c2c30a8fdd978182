//! The tables as files for firmware, which decides where they lie.
//!
//! A script says what firmware has to do (QEMU's `hw/acpi/bios-linker-loader`, SeaBIOS's
//! `romfile_loader`): load a file, add its address to a field, put a checksum right.

use super::{Blob, Field, RSDP_CHECKSUMS, RSDP_RSDT, RSDP_XSDT, narrow, rsdp};

const SCRIPT: &str = "etc/table-loader";
const RSDP: &str = "etc/acpi/rsdp";
const TABLES: &str = "etc/acpi/tables";

/// Offset of the checksum in every table but the RSDP and the FACS.
const CHECKSUM: usize = 9;
/// Files with their names, for a machine with `cpus` CPUs (1 to 255).
///
/// # Panics
/// If there is no CPU: the machine's own mistake.
pub fn files(cpus: u8) -> [(&'static str, Vec<u8>); 3] {
    let (mut blob, roots) = Blob::build(cpus, 0);
    let mut rsdp = rsdp(roots);
    let mut script = Script::default();
    script.load(TABLES, narrow(Blob::ALIGN as u64), Zone::High);
    script.load(RSDP, 16, Zone::FSegment);
    for &field in &blob.pointers {
        script.add_pointer(TABLES, field);
    }
    for field in [RSDP_RSDT, RSDP_XSDT] {
        script.add_pointer(RSDP, field);
    }
    for table in &blob.pointing {
        // Some firmware sums up the old checksum as well.
        let checksum = table.start + CHECKSUM;
        blob.bytes[checksum] = 0;
        script.add_checksum(TABLES, checksum, table.start, table.len());
    }
    for (checksum, len) in RSDP_CHECKSUMS {
        rsdp[checksum] = 0;
        script.add_checksum(RSDP, checksum, 0, len);
    }
    [(SCRIPT, script.0), (RSDP, rsdp), (TABLES, blob.bytes)]
}

/// Where a file is loaded to.
#[derive(Debug, Clone, Copy)]
enum Zone {
    /// Anywhere that the operating system leaves alone.
    High = 1,
    /// From 0xF0000 to 1 MiB, where the RSDP is looked for.
    FSegment = 2,
}

/// Commands of 128 bytes each, little endian.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    const LOAD: u32 = 1;
    const ADD_POINTER: u32 = 2;
    const ADD_CHECKSUM: u32 = 3;
    const COMMAND_LEN: usize = 128;

    fn command(&mut self, number: u32, arguments: &[&[u8]]) {
        let end = self.0.len() + Self::COMMAND_LEN;
        self.0.extend(number.to_le_bytes());
        self.0.extend(arguments.concat());
        self.0.resize(end, 0);
    }

    fn load(&mut self, file: &str, align: u32, zone: Zone) {
        let arguments: [&[u8]; 3] = [&name(file), &align.to_le_bytes(), &[zone as u8]];
        self.command(Self::LOAD, &arguments);
    }

    /// Adds the address of [`TABLES`] to a field of `file`.
    fn add_pointer(&mut self, file: &str, Field { offset, len }: Field) {
        let offset = number(offset);
        self.command(
            Self::ADD_POINTER,
            &[&name(file), &name(TABLES), &offset, &[len]],
        );
    }

    fn add_checksum(&mut self, file: &str, at: usize, start: usize, len: usize) {
        let [at, start, len] = [at, start, len].map(number);
        self.command(Self::ADD_CHECKSUM, &[&name(file), &at, &start, &len]);
    }
}

/// A place in a file, or a number of its bytes.
fn number(value: usize) -> [u8; 4] {
    narrow::<u32>(value as u64).to_le_bytes()
}

/// A file's name, padded.
fn name(text: &str) -> [u8; 56] {
    let mut padded = [0; 56];
    padded[..text.len()].copy_from_slice(text.as_bytes());
    padded
}

#[cfg(test)]
mod tests;
