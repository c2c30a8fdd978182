use std::sync::atomic::Ordering;

use super::*;
use crate::legacy::doubles::counted_signal;

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
