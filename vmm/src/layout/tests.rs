use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn memory_up_to_the_hole_is_one_range() {
    assert_eq!(memory_ranges(512 * MIB), [(0, 512 * MIB)]);
    assert_eq!(memory_ranges(3 * GIB), [(0, 3 * GIB)]);
}

#[test]
fn memory_beyond_the_hole_goes_on_at_four_gib() {
    assert_eq!(memory_ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
}

#[test]
fn the_map_covers_all_memory_but_the_first_megabyte_s_rest() {
    for size in [64 * MIB, 3 * GIB, 3 * GIB + 4096, 9 * GIB] {
        let usable: u64 = e820(size)
            .iter()
            .filter(|range| range.2 == RangeKind::Usable)
            .map(|range| range.1)
            .sum();
        assert_eq!(usable, size - EXTENDED + EBDA, "{size:#x}");
    }
}

#[test]
fn ranges_of_the_map_ascend_and_do_not_overlap() {
    for size in [64 * MIB, 8 * GIB] {
        let map = e820(size);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{map:x?}");
        }
    }
}

#[test]
fn nothing_used_at_entry_overlaps() {
    let areas = [
        (GDT, 64),
        (ZERO_PAGE, 4096),
        (PAGE_TABLES, 6 * 4096),
        (CMDLINE, 0x1_0000),
        (EBDA, 0x400),
        (ACPI, ACPI_LEN),
        (KERNEL, 4096),
    ];
    for pair in areas.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
}
