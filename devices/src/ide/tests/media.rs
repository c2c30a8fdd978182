//! Discs that are changed from outside, and trays that the guest moves.

use std::{cell::RefCell, rc::Rc};

use strata_block::disk::Tray;

use super::rig::*;

const DMA: u8 = 1;
const TEST_UNIT_READY: [u8; 1] = [0x00];
const EJECT: [u8; 5] = [0x1b, 0, 0, 0, 2];
const LOAD: [u8; 5] = [0x1b, 0, 0, 0, 3];
const LOCK: [u8; 5] = [0x1e, 0, 0, 0, 1];
/// GET EVENT STATUS NOTIFICATION.
const EVENT: [u8; 9] = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];

const NOT_READY: u8 = 2;
const UNIT_ATTENTION: u8 = 6;
const TRAY_OPEN: [u8; 3] = [NOT_READY, 0x3a, 2];
const NO_MEDIUM: [u8; 3] = [NOT_READY, 0x3a, 1];
const CHANGED: [u8; 3] = [UNIT_ATTENTION, 0x28, 0];

/// READ(10) of `count` blocks.
fn read(first: u8, count: u8) -> [u8; 9] {
    [0x28, 0, 0, 0, 0, first, 0, 0, count]
}

impl Rig {
    fn tray(&self) -> Rc<dyn Tray> {
        self.worker.borrow().tray(0).unwrap()
    }

    /// Puts another disc in, of so many sectors, or none.
    fn change(&self, sectors: u64) {
        let tray = self.tray();
        tray.set_open(true);
        self.disk.resize(sectors);
        tray.medium_changed(sectors * 512);
        tray.set_open(false);
    }

    fn done(&mut self, packet: &[u8]) {
        self.packet(0, 0, packet, 2);
        self.packet_succeeded();
    }

    fn fails(&mut self, packet: &[u8], sense: [u8; 3]) {
        self.packet(0, 2048, packet, 2);
        assert_eq!(self.packet_failed(sense[0]), sense);
    }

    /// The event, and the state of tray and disc.
    fn event(&mut self) -> (u8, u8) {
        let (_, status) = self.packet_in(64, &EVENT);
        (status[4], status[5])
    }
}

#[test]
fn another_disc_is_reported_and_read() {
    let mut rig = Rig::cdrom(400);
    rig.change(800);
    assert_eq!(rig.event(), (2, 2));
    assert_eq!(rig.event(), (0, 2));
    rig.fails(&TEST_UNIT_READY, CHANGED);
    rig.done(&TEST_UNIT_READY);
    let (_, capacity) = rig.packet_in(64, &[0x25]);
    assert_eq!(capacity[..4], [0, 0, 0, 199]);
    let (_, reply) = rig.packet_in(2048, &read(199, 1));
    assert_eq!(reply, rig.disk.sectors(796, 4));
}

#[test]
fn a_disc_that_is_taken_out_is_gone() {
    let mut rig = Rig::cdrom(400);
    let tray = rig.tray();
    assert!(!tray.is_open() && !tray.is_locked());
    tray.set_open(true);
    assert!(tray.is_open());
    assert_eq!(rig.event(), (3, 1));
    rig.fails(&read(0, 1), TRAY_OPEN);
    tray.medium_changed(0);
    tray.set_open(false);
    assert_eq!(rig.event(), (0, 0));
    rig.fails(&TEST_UNIT_READY, CHANGED);
    rig.fails(&TEST_UNIT_READY, NO_MEDIUM);
    rig.fails(&read(0, 1), NO_MEDIUM);
}

#[test]
fn a_lock_holds_until_it_is_undone_and_the_guest_is_asked() {
    let mut rig = Rig::cdrom(400);
    let tray = rig.tray();
    rig.done(&LOCK);
    assert!(tray.is_locked());
    tray.ask_to_eject(false);
    assert!(tray.is_locked());
    assert_eq!(rig.event(), (1, 2), "somebody wants the disc");
    assert_eq!(rig.event(), (0, 2));
    tray.ask_to_eject(true);
    assert!(!tray.is_locked());
}

#[test]
fn what_the_guest_does_with_the_tray_is_reported() {
    let mut rig = Rig::cdrom(400);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sink = seen.clone();
    let report = Box::new(move |place, open| sink.borrow_mut().push((place, open)));
    rig.worker.borrow_mut().report_trays_to(report);
    for (packet, expected) in [
        (EJECT, vec![(0, true)]),
        (EJECT, vec![]),
        (LOAD, vec![(0, false)]),
        (LOAD, vec![]),
    ] {
        // The first one after a change.
        rig.packet(0, 0, &TEST_UNIT_READY, 2);
        rig.get(7);
        rig.done(&packet);
        assert_eq!(seen.take(), expected);
    }
    // From outside it is none of the guest's doing.
    rig.change(800);
    rig.packet(0, 0, &TEST_UNIT_READY, 2);
    rig.get(7);
    assert_eq!(seen.take(), []);
    rig.done(&LOCK);
    rig.fails(&EJECT, [5, 0x53, 2]);
    assert_eq!(seen.take(), []);
}

#[test]
fn trays_that_move_faster_than_anybody_looks_are_where_they_are_said_to_be() {
    let mut rig = Rig::cdrom(400);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let sink = seen.clone();
    let report = Box::new(move |_, open| sink.borrow_mut().push(open));
    rig.worker.borrow_mut().report_trays_to(report);
    let mut open = false;
    for moves in 1..=5 {
        for _ in 0..moves {
            // The first one after the tray was closed.
            rig.start_packet(0, 0, &TEST_UNIT_READY, 2);
            rig.get(7);
            open = !open;
            rig.start_packet(0, 0, if open { &EJECT } else { &LOAD }, 2);
            rig.packet_succeeded();
        }
        rig.run();
        let seen = seen.take();
        assert_eq!(seen.last(), Some(&open), "{moves}");
        assert_eq!(seen.len() % 2, moves % 2);
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn a_read_does_not_go_on_on_another_disc() {
    // Between the pieces of a long one.
    let mut rig = Rig::cdrom(400);
    rig.packet(0, 2048, &read(0, 100), 2);
    rig.change(400);
    for _ in 0..32 {
        assert_eq!(rig.acknowledge(), READY | DATA_REQUEST);
        for _ in 0..1024 {
            rig.ports.read(0x1f0, &mut [0; 2]);
        }
        rig.run();
    }
    assert_eq!(rig.packet_failed(UNIT_ATTENTION), CHANGED);
    assert_eq!(rig.disk.ops().len(), 1);

    // Before the worker has seen it, by the data port and by the bus master.
    for dma in [false, true] {
        let mut rig = Rig::cdrom(400);
        rig.worker.borrow_mut().stop();
        rig.table(&[(0x2_0000, 2048)]);
        rig.set_engine(0, &[0x09]);
        rig.packet(if dma { DMA } else { 0 }, 2048, &read(0, 1), 2);
        assert_eq!(rig.status() & BUSY, BUSY);
        rig.change(400);
        assert_eq!(rig.packet_failed(NOT_READY), TRAY_OPEN);
        rig.worker.borrow_mut().cont();
        rig.run();
        assert!(rig.disk.ops().is_empty());
    }

    // While it waits for the bus master.
    let mut rig = Rig::cdrom(400);
    rig.table(&[(0x2_0000, 2048)]);
    rig.packet(DMA, 0, &read(0, 1), 2);
    rig.change(400);
    rig.set_engine(0, &[0x09]);
    rig.run();
    assert_eq!(rig.packet_failed(UNIT_ATTENTION), CHANGED);
    assert!(rig.disk.ops().is_empty());
}

#[test]
fn what_is_under_way_ends_with_what_the_disc_held() {
    let mut rig = Rig::cdrom(400);
    *rig.disk.hold.borrow_mut() = true;
    rig.packet(0, 2048, &read(3, 1), 2);
    let expected = rig.disk.sectors(12, 4);
    rig.change(400);
    rig.disk.release();
    assert_eq!(rig.read_block(4, 2), expected);
    rig.packet_succeeded();
    rig.fails(&TEST_UNIT_READY, CHANGED);
}
