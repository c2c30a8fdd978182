use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

/// Walks the page tables in `memory` as a processor does.
fn translate(memory: &GuestMemoryMmap, address: u64) -> Option<u64> {
    let mut table = layout::PAGE_TABLES;
    for shift in [39, 30, 21] {
        let index = address >> shift & 0x1ff;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
        if entry & PAGE_PRESENT == 0 {
            return None;
        }
        if entry & PAGE_LARGE != 0 {
            return Some((entry & !0x1f_ffff) | (address & 0x1f_ffff));
        }
        table = entry & !0xfff;
    }
    None
}

#[test]
fn four_gib_are_identity_mapped() {
    let memory = memory();
    write_tables(&memory, Entry::LongMode(0)).unwrap();
    for address in [0, layout::KERNEL, 0x1234_5678, 0xfee0_0123, 0xffff_ffff] {
        assert_eq!(translate(&memory, address), Some(address));
    }
    assert_eq!(translate(&memory, 1 << 32), None);
    assert_eq!(translate(&memory, 1 << 39), None);
}

#[test]
fn stale_tables_are_overwritten() {
    let memory = memory();
    memory
        .write_slice(&[0xff; 0x6000], GuestAddress(layout::PAGE_TABLES))
        .unwrap();
    write_tables(&memory, Entry::LongMode(0)).unwrap();
    assert_eq!(translate(&memory, 1 << 40), None);
}

#[test]
fn code_is_64_bit_and_data_is_flat() {
    let code = segment(&GDT, CODE);
    assert_eq!((code.l, code.db, code.type_, code.s), (1, 0, 0xb, 1));
    let data = segment(&GDT, DATA);
    assert_eq!((data.limit, data.type_, data.s), (0xffff_ffff, 3, 1));
    let task = segment(&GDT, TASK);
    assert_eq!((task.type_, task.s, task.present), (0xb, 0, 1));
}

#[test]
fn without_long_mode_code_is_32_bit_and_the_task_as_pvh_wants_it() {
    let code = segment(&GDT_32, CODE);
    assert_eq!(
        (code.l, code.db, code.type_, code.limit),
        (0, 1, 0xb, 0xffff_ffff)
    );
    let task = segment(&GDT_32, TASK);
    assert_eq!((task.type_, task.base, task.limit), (0xb, 0, 0x67));
    let memory = memory();
    write_tables(&memory, Entry::ProtectedMode(Registers::default())).unwrap();
    let code: u64 = memory.read_obj(GuestAddress(layout::GDT + 0x10)).unwrap();
    assert_eq!(code, GDT_32[2]);
}

#[test]
fn lint_entries_hold_their_delivery_modes() {
    let mut lapic = kvm_lapic_state::default();
    write_lvt(&mut lapic, LVT_LINT0, DELIVERY_EXTINT);
    assert_eq!(lapic.regs[LVT_LINT0 + 1] as u8, 7);
}
