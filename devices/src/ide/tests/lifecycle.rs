use std::sync::Arc;

use super::rig::*;

#[test]
fn absent_drives_read_as_zero_and_take_no_commands() {
    let mut rig = Rig::new();
    rig.set(6, 0xb0);
    rig.set(2, 0x55);
    rig.set(3, 0xaa);
    assert_eq!((rig.get(2), rig.get(3), rig.get(7)), (0, 0, 0));
    rig.command(0xec);
    assert_eq!(rig.status(), 0);
    assert!(!rig.line.is_high());
    // The other channel has no drives at all.
    let mut value = [1];
    rig.ports.read(0x177, &mut value);
    assert_eq!(value, [0]);
}

#[test]
fn every_place_on_the_cables_works() {
    for place in 0..4 {
        let mut rig = Rig::with(place, info());
        let select = 0xe0 | (place as u8 & 1) << 4;
        for (register, value) in [(2, 1), (3, 9), (4, 0), (5, 0), (6, select)] {
            rig.set(register, value);
        }
        rig.table(&[(0x2_0000, 512)]);
        rig.dma(0xc8);
        rig.succeeded();
        assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(9, 1));
        assert_eq!(rig.engine(2) & 0x60, 0x20 << (place & 1));
    }
}

#[test]
fn two_drives_share_the_cable_but_not_their_results() {
    let mut rig = Rig::pair();
    rig.set(6, 0xb0);
    rig.command(0xa1);
    rig.failed(ABORTED);
    rig.set(6, 0xa0);
    assert_eq!(rig.status(), READY, "drive 0 has not failed");
    // A command of drive 0 leaves what drive 1 shows alone.
    rig.address28(7, 1);
    rig.command(0x20);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(7, 1));
    rig.set(6, 0xb0);
    assert_eq!((rig.status(), rig.get(1)), (READY | ERROR, ABORTED));
    // While drive 0 offers data, drive 1 has none.
    rig.address28(7, 1);
    rig.command(0x20);
    rig.set(6, 0xb0);
    assert_eq!(rig.status() & DATA_REQUEST, 0);
    let mut word = [0; 2];
    rig.ports.read(0x1f0, &mut word);
    assert_eq!(word, [0xff; 2]);
    rig.set(6, 0xe0);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(7, 1));
    assert_eq!(rig.engine(2) & 0x60, 0x60);
    // A reset is for both.
    rig.set_control(4);
    rig.set_control(0);
    for select in [0xa0, 0xb0] {
        rig.set(6, select);
        assert_eq!((rig.status(), rig.get(1)), (READY, 1));
    }
}

#[test]
fn software_reset_shows_the_signature_and_ends_what_was_offered() {
    let mut rig = Rig::new();
    rig.command(0xec);
    rig.set_control(0x04);
    assert_eq!(rig.status(), BUSY);
    assert!(!rig.line.is_high());
    rig.set_control(0);
    assert_eq!(rig.status(), READY);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|r| rig.get(r)), [1, 1, 1, 0, 0, 0]);
    assert!(!rig.line.is_high(), "a reset does not interrupt");
}

#[test]
fn diagnostics_address_both_drives() {
    let mut rig = Rig::new();
    rig.set(6, 0xb0);
    rig.set(3, 77);
    rig.command(0x90);
    rig.succeeded();
    assert_eq!([1, 2, 3, 4, 5, 6].map(|r| rig.get(r)), [1, 1, 1, 0, 0, 0]);
}

#[test]
fn interrupts_can_be_held_back() {
    let mut rig = Rig::new();
    rig.set_control(0x02);
    rig.command(0xe7);
    assert!(!rig.line.is_high());
    assert_eq!(rig.engine(2) & 4, 0);
    rig.set_control(0);
    assert!(rig.line.is_high());
    rig.succeeded();
}

#[test]
fn a_busy_drive_takes_no_writes() {
    let mut rig = Rig::new();
    *rig.disk.hold.borrow_mut() = true;
    rig.address28(5, 1);
    rig.command(0x20);
    assert_eq!(rig.status() & BUSY, BUSY);
    rig.set(3, 99);
    rig.set(6, 0xb0);
    rig.command(0xec);
    rig.disk.release();
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(5, 1));
    assert_eq!(rig.lba28(), 5);
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_drops_its_interrupt() {
    let mut rig = Rig::new();
    *rig.disk.hold.borrow_mut() = true;
    rig.table(&[(0x2_0000, 512)]);
    rig.address28(5, 1);
    rig.dma(0xca);
    rig.set_control(0x04);
    rig.set_control(0);
    assert_eq!(rig.status(), BUSY, "still in flight");
    assert!(!rig.worker.borrow().is_idle());
    rig.disk.release();
    assert!(rig.worker.borrow().is_idle());
    assert_eq!(rig.status(), READY);
    assert!(!rig.line.is_high());
    assert_eq!(rig.get(3), 1, "the signature");
    // The machine's reset the same, and the settings go with it.
    *rig.disk.hold.borrow_mut() = true;
    rig.command(0xe7);
    rig.function.lock().unwrap().reset();
    assert_eq!(rig.status(), BUSY);
    rig.disk.release();
    assert_eq!(rig.status(), READY);
    assert!(!rig.line.is_high());
}

#[test]
fn stop_keeps_commands_and_cont_starts_them() {
    let mut rig = Rig::new();
    rig.worker.borrow_mut().stop();
    rig.table(&[(0x2_0000, 512)]);
    rig.address28(5, 1);
    rig.dma(0xc8);
    assert!(rig.worker.borrow().is_idle());
    assert!(rig.disk.ops().is_empty());
    assert_eq!(rig.status() & BUSY, BUSY);
    rig.worker.borrow_mut().cont();
    rig.run();
    rig.succeeded();
    assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(5, 1));
}

#[test]
fn stopping_the_engine_takes_back_what_has_not_been_started() {
    let mut rig = Rig::new();
    rig.worker.borrow_mut().stop();
    rig.table(&[(0x2_0000, 512)]);
    rig.address28(5, 1);
    rig.dma(0xc8);
    rig.stop_engine();
    assert_eq!(rig.status(), READY | DATA_REQUEST);
    rig.worker.borrow_mut().cont();
    rig.run();
    assert!(rig.disk.ops().is_empty());
    rig.set_engine(0, &[0x09]);
    rig.run();
    rig.succeeded();
}

#[test]
fn the_function_is_what_ata_piix_looks_for() {
    let rig = Rig::new();
    let mut function = rig.function.lock().unwrap();
    let mut dword = |offset| {
        let mut data = [0; 4];
        function.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(dword(0x00), 0x7010_8086);
    assert_eq!(dword(0x08) >> 8, 0x01_01_80);
    assert_eq!(dword(0x20), 0xc001);
    assert_eq!(
        dword(0x40),
        0x0000_8000,
        "only the primary channel has a drive"
    );
}

/// Makes the disk 8 sectors longer; how many it had.
fn resize(rig: &mut Rig) -> u64 {
    let before = sectors(rig);
    rig.disk.resize(before + 8);
    rig.worker.borrow().resized();
    before
}

/// How many sectors the drive says it has.
fn sectors(rig: &mut Rig) -> u64 {
    let words = rig.identify();
    u64::from(words[100]) | u64::from(words[101]) << 16
}

fn software_reset(rig: &Rig) {
    rig.set_control(0x04);
    rig.set_control(0);
}

#[test]
fn a_resized_drive_says_so_when_its_guest_has_let_go_of_it() {
    let mut rig = Rig::new();
    let before = resize(&mut rig);
    assert_eq!(sectors(&mut rig), before);
    // What a guest does that goes on using it: it has read, something has failed, it has reset the
    // channel, and looks whether that is still the same drive.
    rig.address48(0, 1);
    rig.command(0x24);
    rig.read_block(1, 2);
    software_reset(&rig);
    assert_eq!(sectors(&mut rig), before);
    // What is there can be reached.
    rig.address48(before + 7, 1);
    rig.command(0x24);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(before + 7, 1));
    // It had the drive stand by, and went on with it.
    rig.command(0xe0);
    rig.succeeded();
    rig.command(0xe7);
    software_reset(&rig);
    assert_eq!(sectors(&mut rig), before);
    // It lets go of the drive, and looks for drives.
    rig.command(0xe0);
    assert_eq!(rig.status(), READY);
    software_reset(&rig);
    assert_eq!(sectors(&mut rig), before + 8);
}

#[test]
fn a_drive_keeps_its_size_while_its_guest_is_suspended() {
    let mut rig = Rig::new();
    let before = resize(&mut rig);
    let function = Arc::clone(&rig.function);
    let command = |value| function.lock().unwrap().write_config(4, &[value, 0]);
    // Suspended to idle: the guest switches the controller off.
    rig.command(0xe0);
    command(0);
    command(5);
    software_reset(&rig);
    assert_eq!(sectors(&mut rig), before);
    // Suspended to memory.
    rig.command(0xe0);
    command(0);
    function.lock().unwrap().wake_up();
    command(5);
    software_reset(&rig);
    assert_eq!(sectors(&mut rig), before);
    // After the machine's reset nobody knows what it has said.
    function.lock().unwrap().reset();
    assert_eq!(sectors(&mut rig), before + 8);
}
