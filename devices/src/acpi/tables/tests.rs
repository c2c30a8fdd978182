use super::*;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Tables {
    /// The table at a guest physical address, cut by the length in its header.
    fn at(&self, address: u64) -> &[u8] {
        let offset = (address - self.address) as usize;
        let length = u32_at(&self.bytes, offset + 4) as usize;
        &self.bytes[offset..offset + length]
    }

    /// The table of that name, found as a guest does.
    fn find(&self, signature: &[u8; 4]) -> &[u8] {
        let xsdt = self.at(u64_at(&self.bytes, 24));
        let found = |entry: &[u8]| self.at(u64_at(entry, 0));
        xsdt[36..]
            .chunks_exact(8)
            .map(found)
            .find(|t| t.starts_with(signature))
            .unwrap()
    }
}

#[test]
fn every_table_is_reachable_and_its_checksum_is_right() {
    let tables = Tables::build(2);
    assert_eq!(
        tables.address % 16,
        0,
        "guests search on 16-byte boundaries"
    );
    assert!(tables.bytes.starts_with(b"RSD PTR "));
    assert_eq!(sum(&tables.bytes[..20]), 0);
    assert_eq!(sum(&tables.bytes[..36]), 0);
    let xsdt = tables.at(u64_at(&tables.bytes, 24));
    assert!(xsdt.starts_with(b"XSDT"));
    assert_eq!(sum(xsdt), 0);
    // GRUB, which looks there for how to power off, knows nothing of the XSDT.
    let rsdt = tables.at(u32_at(&tables.bytes, 16).into());
    assert!(rsdt.starts_with(b"RSDT"));
    assert_eq!(sum(rsdt), 0);
    let short = rsdt[36..]
        .chunks_exact(4)
        .map(|entry| u64::from(u32_at(entry, 0)));
    let long = xsdt[36..].chunks_exact(8).map(|entry| u64_at(entry, 0));
    assert!(short.eq(long));
    let (fadt, madt) = (tables.find(b"FACP"), tables.find(b"APIC"));
    assert_eq!((sum(fadt), sum(madt)), (0, 0));
    let dsdt = tables.at(u32_at(fadt, 40).into());
    assert!(dsdt.starts_with(b"DSDT"));
    assert_eq!(sum(dsdt), 0);
    assert_eq!(u64_at(fadt, 140), u64::from(u32_at(fadt, 40)));
    let facs = u64::from(u32_at(fadt, 36));
    assert_eq!(facs % 64, 0);
    assert!(tables.at(facs).starts_with(b"FACS"));
    assert_eq!(tables.waking_vector, facs + 12);
}

#[test]
fn the_fadt_names_the_power_registers() {
    let tables = Tables::build(1);
    let fadt = tables.find(b"FACP");
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI");
    assert_eq!(
        u32_at(fadt, 48),
        0,
        "no SMI command port: ACPI is always on"
    );
    assert_eq!(
        (u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)),
        (0x600, 0x604, 0x608)
    );
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    let flags = u32_at(fadt, 112);
    assert_eq!(flags & 1 << 4, 0, "the power button is a fixed one");
    assert_eq!(flags & 1 << 6, 0, "the alarm is a fixed event");
    assert_eq!(flags & 1 << 20, 0, "not hardware-reduced");
    assert_eq!(
        (u64_at(fadt, 120), fadt[128]),
        (0x64, 0xfe),
        "reset register"
    );
}

#[test]
fn the_madt_lists_cpus_and_overrides() {
    for cpus in [1, 3, 255] {
        let tables = Tables::build(cpus);
        let mut rest = &tables.find(b"APIC")[44..];
        let (mut apic_ids, mut overrides, mut io_apics) = (vec![], vec![], 0);
        while let [kind, length, ..] = *rest {
            let (entry, tail) = rest.split_at(length.into());
            match kind {
                0 => apic_ids.push(entry[3]),
                1 => io_apics += 1,
                2 => overrides.push((entry[3], u32_at(entry, 4), entry[8])),
                other => panic!("structure type {other}"),
            }
            rest = tail;
        }
        assert_eq!(apic_ids, (0..cpus).collect::<Vec<_>>());
        assert_eq!(io_apics, 1);
        assert_eq!(overrides, [(0, 2, 0), (9, 9, 0x0d)]);
    }
}

/// `iasl` (Debian's `acpica-tools`) finds nothing to complain about.
#[test]
fn the_dsdt_disassembles_and_compiles_again() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::build(2);
    let fadt = tables.find(b"FACP");
    let dsdt = tables.at(u32_at(fadt, 40).into());
    for (name, bytes) in [
        ("dsdt", dsdt),
        ("facp", fadt),
        ("apic", tables.find(b"APIC")),
    ] {
        let file = directory.path().join(format!("{name}.aml"));
        std::fs::write(&file, bytes).unwrap();
        let iasl = |args: &[&str], file: &std::path::Path| {
            let run = std::process::Command::new("iasl")
                .args(args)
                .arg(file)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{text}");
            text.into_owned()
        };
        iasl(&["-d"], &file);
        let text = iasl(&[], &file.with_extension("dsl"));
        if name == "dsdt" {
            assert!(text.contains(" 0 Errors, 0 Warnings"), "{text}");
        }
    }
}
