use super::*;

const MIB: u64 = 1 << 20;
const TOP: u64 = 0x1000;

/// 8 MiB, with the entries given as (table, index, entry).
fn memory(entries: &[(u64, u64, u64)]) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 * MIB as usize)]).unwrap();
    for &(table, index, entry) in entries {
        let at = GuestAddress(table + index * 8);
        memory.write_slice(&entry.to_le_bytes(), at).unwrap();
    }
    memory
}

fn cpu(cr3: u64, more_cr4: u64) -> Registers {
    let mut cpu = Registers::default();
    cpu.system.cr0 = CR0_PG;
    cpu.system.cr4 = CR4_PAE | more_cr4;
    cpu.system.efer = EFER_LMA;
    cpu.system.cr3 = cr3;
    cpu
}

fn mapping(linear: u64, physical: u64, len: u64) -> Mapping {
    Mapping {
        linear,
        physical,
        len,
    }
}

#[test]
fn pages_of_all_sizes_that_follow_each_other_are_one_run() {
    let memory = memory(&[
        // User space is passed over.
        (TOP, 0, 0x2000 | PRESENT),
        (TOP, 511, 0x2000 | PRESENT),
        (0x2000, 510, 0x3000 | PRESENT),
        // 2 MiB from 2 MiB on, then a table whose first pages follow.
        (0x3000, 8, (2 * MIB) | LARGE | PRESENT),
        (0x3000, 9, 0x4000 | PRESENT),
        (0x4000, 0, (4 * MIB) | PRESENT),
        (0x4000, 1, (4 * MIB + 0x1000) | PRESENT),
        // Somewhere else, and behind the memory's end.
        (0x4000, 3, 0x5000 | PRESENT),
        (0x4000, 4, (64 * MIB) | PRESENT),
        // 1 GiB, of which 8 MiB are memory.
        (0x2000, 511, LARGE | PRESENT),
    ]);
    let base = 0xffff_ffff_8000_0000;
    let expected = [
        mapping(base + 16 * MIB, 2 * MIB, 2 * MIB + 0x2000),
        mapping(base + 18 * MIB + 0x3000, 0x5000, 0x1000),
        mapping(base + (1 << 30), 0, 8 * MIB),
    ];
    assert_eq!(of_kernel(&memory, &[cpu(TOP, 0)]), expected);
    // A processor that sees less comes second.
    assert_eq!(of_kernel(&memory, &[cpu(0x5000, 0), cpu(TOP, 0)]), expected);
}

#[test]
fn five_levels() {
    let memory = memory(&[
        (TOP, 256, 0x2000 | PRESENT),
        (0x2000, 0, 0x3000 | PRESENT),
        (0x3000, 1, LARGE | PRESENT),
    ]);
    let expected = [mapping(0xff00_0000_4000_0000, 0, 8 * MIB)];
    assert_eq!(of_kernel(&memory, &[cpu(TOP, CR4_LA57)]), expected);
}

#[test]
fn tables_that_lead_to_themselves_come_to_an_end() {
    let every: Vec<_> = (0..512).map(|index| (TOP, index, TOP | PRESENT)).collect();
    let found = of_kernel(&memory(&every), &[cpu(TOP, 0)]);
    assert!(found.len() <= MAX_MAPPINGS);
}

#[test]
fn without_paging_there_is_nothing() {
    let memory = memory(&[(TOP, 511, LARGE | PRESENT)]);
    assert_eq!(of_kernel(&memory, &[Registers::default()]), []);
    assert_eq!(of_kernel(&memory, &[cpu(1 << 40, 0)]), []);
}
