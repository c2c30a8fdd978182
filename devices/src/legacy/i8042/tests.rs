use std::sync::atomic::Ordering;

use super::*;
use crate::legacy::doubles::counted_signal;

fn controller() -> I8042 {
    I8042::new(counted_signal().0)
}

#[test]
fn command_fe_and_the_output_port_reset_the_machine() {
    let (signal, count) = counted_signal();
    let mut kbc = I8042::new(signal);
    kbc.write(4, &[0xff]);
    assert_eq!(count.load(Ordering::SeqCst), 0, "no line pulsed");
    kbc.write(4, &[0xfe]);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    kbc.write(4, &[0xd1]);
    kbc.write(0, &[0x02]);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    kbc.write(0, &[0x02]);
    assert_eq!(count.load(Ordering::SeqCst), 2, "a byte without a command");
}

#[test]
fn self_test_passes_and_ports_are_empty() {
    let mut kbc = controller();
    kbc.write_port(I8042::COMMAND, 0xaa);
    assert_eq!(kbc.read_port(I8042::COMMAND) & 0x21, 0x01);
    assert_eq!(kbc.read_port(I8042::DATA), 0x55);
    assert_eq!(kbc.read_port(I8042::COMMAND) & 0x01, 0);
    kbc.write_port(I8042::COMMAND, 0xab);
    assert_ne!(kbc.read_port(I8042::DATA), 0, "no keyboard");
}

#[test]
fn control_byte_and_loopback_read_back() {
    let mut kbc = controller();
    kbc.write_port(I8042::COMMAND, 0x60);
    kbc.write_port(I8042::DATA, 0x47);
    kbc.write_port(I8042::COMMAND, 0xa7);
    kbc.write_port(I8042::COMMAND, 0x20);
    assert_eq!(kbc.read_port(I8042::DATA), 0x67);
    kbc.write_port(I8042::COMMAND, 0xd3);
    kbc.write_port(I8042::DATA, 0x5a);
    assert_eq!(
        kbc.read_port(I8042::COMMAND) & 0x21,
        0x21,
        "from the second port"
    );
    assert_eq!(kbc.read_port(I8042::DATA), 0x5a);
}

#[test]
fn a_flood_of_answers_is_bounded_and_a_reset_clears_them() {
    let mut kbc = controller();
    for _ in 0..1000 {
        kbc.write_port(I8042::COMMAND, 0x20);
    }
    assert_eq!(kbc.output.len(), QUEUE_LIMIT);
    kbc.reset();
    assert_eq!(kbc.read_port(I8042::COMMAND) & 0x01, 0);
}
