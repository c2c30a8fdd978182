use std::sync::atomic::Ordering;

use super::*;
use crate::legacy::doubles::counted_signal;

#[test]
fn cf9_resets_when_the_reset_bit_rises() {
    let (signal, count) = counted_signal();
    let mut register = ResetControl::new(signal);
    register.write(0, &[0x02]);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    register.write(0, &[0x06]);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let mut value = [0xff];
    register.read(0, &mut value);
    assert_eq!(value, [0x02]);
}

#[test]
fn port_92_resets_and_keeps_a20_open() {
    let (signal, count) = counted_signal();
    let mut port = SystemControl::new(signal);
    port.write(0, &[0x02]);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    port.write(0, &[0x03]);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let mut value = [0];
    port.read(0, &mut value);
    assert_eq!(value, [0x02]);
}
