use std::sync::Mutex;

use super::*;

fn device() -> (PvPanic, Arc<Mutex<Vec<PanicEvents>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let device = PvPanic::new(Arc::new(move |events| sink.lock().unwrap().push(events)));
    (device, seen)
}

#[test]
fn a_guest_sees_which_events_there_are() {
    let (mut device, seen) = device();
    let mut value = [0xff];
    device.read(0, &mut value);
    assert_eq!(value, [0x03]);
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn reports_are_passed_on_and_unknown_bits_are_not() {
    let (mut device, seen) = device();
    for value in [0x01, 0x02, 0x00, 0xfc, 0xff] {
        device.write(0, &[value]);
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [
            PanicEvents::PANICKED,
            PanicEvents::CRASH_LOADED,
            PanicEvents::all()
        ]
    );
}
