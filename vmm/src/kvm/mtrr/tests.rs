use kvm_bindings::kvm_cpuid_entry2;

use super::*;

fn value(entries: &[kvm_msr_entry], index: u32) -> u64 {
    entries.iter().find(|e| e.index == index).unwrap().data
}

#[test]
fn the_hole_below_4_gib_is_uncacheable_and_the_rest_is_memory() {
    let entries = entries(8, 40);
    assert_eq!(value(&entries, 0x200), 0xc000_0000);
    assert_eq!(value(&entries, 0x201), 0xff_c000_0800);
    assert_eq!((value(&entries, 0x20e), value(&entries, 0x20f)), (0, 0));
    assert_eq!(value(&entries, 0x2ff), 0xc06);
    assert_eq!(entries.last().unwrap().index, 0x2ff, "switched on last");
}

#[test]
fn below_1_mib_only_memory_is_written_back() {
    let entries = entries(1, 36);
    for (index, kind) in [(0x250, 6), (0x258, 6), (0x259, 0), (0x268, 5), (0x26f, 5)] {
        assert_eq!(
            value(&entries, index).to_le_bytes(),
            [kind; 8],
            "{index:#x}"
        );
    }
}

#[test]
fn a_hole_of_one_range_is_a_power_of_two_and_aligned_to_it() {
    let hole = layout::HIGH_MEMORY - layout::LOW_MEMORY_LIMIT;
    assert!(hole.is_power_of_two() && layout::LOW_MEMORY_LIMIT.is_multiple_of(hole));
}

#[test]
fn the_width_of_addresses_is_what_cpuid_says() {
    let sizes = |eax| kvm_cpuid_entry2 {
        function: 0x8000_0008,
        eax,
        ..Default::default()
    };
    let of = |entries: &[kvm_cpuid_entry2]| address_bits(&CpuId::from_entries(entries).unwrap());
    assert_eq!(of(&[]), 36);
    assert_eq!(of(&[sizes(0x3028)]), 40);
    assert_eq!(of(&[sizes(0)]), 36, "too few to be true");
}
