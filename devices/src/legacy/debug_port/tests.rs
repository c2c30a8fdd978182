use std::sync::{Arc, Mutex};

use super::*;

#[test]
fn lines_are_handed_on_whole_but_bounded() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let mut port = DebugPort::new(Box::new(move |line| {
        seen.lock().unwrap().push(line.to_owned());
    }));
    let mut byte = [0];
    port.read(0, &mut byte);
    assert_eq!(byte, [0xe9]);
    for &byte in b"SeaBIOS\r\n\nhalf" {
        port.write(0, &[byte]);
    }
    assert_eq!(*lines.lock().unwrap(), ["SeaBIOS", ""]);
    for _ in 0..2000 {
        port.write(0, b"x");
    }
    let lines = lines.lock().unwrap();
    assert!(lines.iter().all(|line| line.len() <= 512));
    assert_eq!(lines[2..].concat().len(), 3 * 512);
}
