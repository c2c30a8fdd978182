use super::*;

fn space() -> ConfigSpace {
    ConfigSpace::new(Identity {
        vendor: 0x1234,
        device: 0x5678,
        class: 0x01_06_02,
        revision: 9,
        subsystem: (0xaaaa, 0xbbbb),
        multi_function: true,
    })
}

fn write32(space: &mut ConfigSpace, offset: usize, value: u32) {
    space.write(offset, &value.to_le_bytes());
}

#[test]
fn the_header_shows_the_identity() {
    let space = space();
    assert_eq!(space.u32_at(0x00), 0x5678_1234);
    assert_eq!(space.u32_at(0x08), 0x0106_0209);
    assert_eq!(space.u32_at(0x0c), 0x0080_0000);
    assert_eq!(space.u32_at(0x2c), 0xbbbb_aaaa);
    let mut odd = [0; 1];
    space.read(0x02, &mut odd);
    assert_eq!(odd, [0x78]);
}

#[test]
fn what_is_read_only_stays() {
    let mut space = space();
    let before = space.bytes;
    for offset in (0..CONFIG_LEN).step_by(4) {
        if offset != COMMAND && offset != INTERRUPT_LINE {
            write32(&mut space, offset, u32::MAX);
        }
    }
    assert_eq!(space.bytes, before);
}

#[test]
fn all_ones_show_a_bars_size_and_flags() {
    let mut space = space();
    space.add_bar(0, BarKind::Memory64, 0x8000, 0xc000_8000);
    space.add_bar(2, BarKind::Memory64, 0x100, 0xc001_0000);
    space.add_bar(4, BarKind::Io, 16, 0xc010);
    for bar in [0, 1, 2, 3, 4, 5] {
        write32(&mut space, BAR0 + 4 * bar, u32::MAX);
    }
    let bars: Vec<u32> = (0..6).map(|bar| space.u32_at(BAR0 + 4 * bar)).collect();
    assert_eq!(
        bars,
        [
            0xffff_8004,
            0xffff_ffff,
            0xffff_ff04,
            0xffff_ffff,
            0xffff_fff1,
            0
        ]
    );
}

#[test]
fn a_bar_is_decoded_where_the_guest_puts_it_and_while_enabled() {
    let mut space = space();
    space.add_bar(0, BarKind::Memory64, 0x8000, 0xc000_8000);
    space.add_bar(4, BarKind::Io, 16, 0xc010);
    assert_eq!(space.command(), Command::IO | Command::MEMORY);
    let memory = BarRange {
        bar: 0,
        space: Space::Memory,
        base: 0xc000_8000,
        len: 0x8000,
    };
    let io = BarRange {
        bar: 4,
        space: Space::Io,
        base: 0xc010,
        len: 16,
    };
    assert_eq!(space.decoded().collect::<Vec<_>>(), [memory, io]);

    write32(&mut space, BAR0, 0xd000_7fff);
    write32(&mut space, BAR0 + 4, 1);
    let moved = BarRange {
        base: 0x1_d000_0000,
        ..memory
    };
    assert_eq!(space.bar(0), Some(moved));

    space.write(COMMAND, &Command::MEMORY.bits().to_le_bytes());
    assert_eq!(space.decoded().collect::<Vec<_>>(), [moved]);
    space.write(COMMAND, &Command::IO.bits().to_le_bytes());
    assert_eq!(space.decoded().collect::<Vec<_>>(), [io]);

    space.reset();
    assert_eq!(space.decoded().collect::<Vec<_>>(), [memory, io]);
}

#[test]
fn capabilities_are_chained_in_order() {
    let mut space = space();
    assert_eq!(space.u16_at(STATUS) & 0x10, 0);
    let first = space.add_capability(0x11, &[1, 2, 3, 4, 5], &[0xf0]);
    let second = space.add_capability(0x09, &[7; 14], &[]);
    assert_eq!(space.u16_at(STATUS) & 0x10, 0x10);
    assert_eq!(space.bytes[CAPABILITIES], first as u8);
    assert_eq!(
        space.bytes[first..first + 7],
        [0x11, second as u8, 1, 2, 3, 4, 5]
    );
    assert_eq!(space.bytes[second..second + 3], [0x09, 0, 7]);
    assert!(second.is_multiple_of(4));
    space.write(first + 2, &[0xff, 0xff]);
    assert_eq!(space.bytes[first + 2..first + 4], [0xf1, 2]);
}

#[test]
fn accesses_over_the_end_touch_only_what_exists() {
    let mut space = space();
    let mut data = [0x5a; 4];
    space.read(CONFIG_LEN - 2, &mut data);
    assert_eq!(data, [0, 0, 0x5a, 0x5a]);
    space.write(CONFIG_LEN - 2, &[1; 4]);
    space.write(CONFIG_LEN + 9, &[1; 4]);
}

#[test]
fn a_function_that_nobody_has_configured_decodes_nothing_until_a_reset() {
    let mut space = space();
    space.add_bar(0, BarKind::Memory64, 0x1000, 0xc000_1000);
    space.add_bar(2, BarKind::Io, 0x40, 0xc040);
    let configured: Vec<_> = space.decoded().collect();
    space.unconfigure();
    assert_eq!(space.decoded().count(), 0);
    assert_eq!(space.command(), Command::empty());
    // The kinds of the BARs are still to be seen.
    assert_eq!((space.u32_at(BAR0), space.u32_at(BAR0 + 4)), (0b100, 0));
    assert_eq!(space.u32_at(BAR0 + 8), 0b001);
    space.reset();
    assert_eq!(space.decoded().collect::<Vec<_>>(), configured);
}
