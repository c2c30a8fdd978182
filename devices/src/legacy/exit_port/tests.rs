use std::sync::Mutex;

use super::*;

fn port() -> (ExitPort, Arc<Mutex<Vec<u32>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let port = ExitPort::new(Arc::new(move |code| sink.lock().unwrap().push(code)));
    (port, seen)
}

#[test]
fn bytes_words_and_dwords_are_codes() {
    let (mut port, seen) = port();
    port.write(0, &[7]);
    port.write(0, &[0x34, 0x12]);
    port.write(0, &[0, 0, 0, 0x80]);
    assert_eq!(*seen.lock().unwrap(), [7, 0x1234, 0x8000_0000]);
}

#[test]
fn the_ports_behind_it_and_reads_do_nothing() {
    let (mut port, seen) = port();
    port.write(1, &[7]);
    port.write(3, &[7]);
    let mut value = [0xff; 4];
    port.read(0, &mut value);
    assert_eq!(value, [0; 4]);
    assert!(seen.lock().unwrap().is_empty());
}
