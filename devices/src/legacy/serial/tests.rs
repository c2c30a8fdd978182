use std::os::unix::net::UnixStream;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::legacy::doubles::FakeLine;

/// Output that the test can look at while the port owns it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn port() -> (Arc<Mutex<SerialPort>>, Arc<FakeLine>, Shared) {
    let (line, out) = (Arc::new(FakeLine::default()), Shared::default());
    let port = SerialPort::new(line.clone(), Box::new(out.clone())).unwrap();
    (Arc::new(Mutex::new(port)), line, out)
}

fn register(port: &Mutex<SerialPort>, offset: u64) -> u8 {
    let mut value = [0];
    port.lock().unwrap().read(offset, &mut value);
    value[0]
}

#[test]
fn what_the_guest_prints_comes_out() {
    let (port, line, out) = port();
    for &byte in b"ok\n" {
        port.lock().unwrap().write(0, &[byte]);
    }
    assert_eq!(*out.0.lock().unwrap(), b"ok\n");
    assert_eq!(line.edges(), 0, "no interrupt was enabled");
    assert_eq!(register(&port, 5) & 0x60, 0x60, "transmitter is empty");
}

#[test]
fn input_beyond_the_fifo_waits_and_arrives_in_order() {
    let (port, line, _) = port();
    port.lock().unwrap().write(1, &[1]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut manager = EventManager::<SerialInput<UnixStream>>::new().unwrap();
    manager.add_subscriber(SerialInput::new(port.clone(), ours));
    let sent: Vec<u8> = (0..200).collect();
    (&theirs).write_all(&sent).unwrap();
    let mut got = Vec::new();
    // Each round fills the FIFO and empties it; four rounds hold 200 bytes.
    for _ in 0..20 {
        manager.run_with_timeout(0).unwrap();
        assert!(port.lock().unwrap().free() <= 64);
        while register(&port, 5) & 1 != 0 {
            got.push(register(&port, 0));
        }
    }
    assert_eq!(got, sent);
    assert!(line.edges() > 0);
    // The other side hangs up: nothing spins, nothing panics.
    drop(theirs);
    manager.run_with_timeout(0).unwrap();
    assert_eq!(manager.run_with_timeout(0).unwrap(), 0);
}

#[test]
fn a_full_fifo_stops_the_reading() {
    let (port, ..) = port();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut manager = EventManager::<SerialInput<UnixStream>>::new().unwrap();
    manager.add_subscriber(SerialInput::new(port.clone(), ours));
    (&theirs).write_all(&[b'x'; 100]).unwrap();
    manager.run_with_timeout(0).unwrap();
    manager.run_with_timeout(0).unwrap();
    assert_eq!(port.lock().unwrap().free(), 0);
    assert_eq!(
        manager.run_with_timeout(0).unwrap(),
        0,
        "nothing is watched"
    );
}

#[test]
fn reset_forgets_input_and_interrupts() {
    let (port, line, _) = port();
    port.lock().unwrap().write(1, &[1]);
    port.lock().unwrap().receive(b"abc");
    port.lock().unwrap().reset();
    assert_eq!(register(&port, 5) & 1, 0);
    assert_eq!(register(&port, 1), 0);
    let edges = line.edges();
    port.lock().unwrap().receive(b"d");
    assert_eq!(line.edges(), edges);
}

#[test]
fn output_that_fails_does_not_stop_the_guest() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut port = SerialPort::new(Arc::new(FakeLine::default()), Box::new(Broken)).unwrap();
    port.write(0, b"a");
    port.write(0, b"b");
    let mut status = [0];
    port.read(5, &mut status);
    assert_eq!(status[0] & 0x60, 0x60);
}

#[test]
fn input_that_is_left_keeps_its_interrupt() {
    const IDENTIFICATION: u64 = 2;
    let (port, ..) = port();
    port.lock().unwrap().write(1, &[1]);
    port.lock().unwrap().receive(b"abc");
    // A driver that takes only so many bytes at once asks then whether there is more to do.
    assert_eq!(register(&port, 0), b'a');
    assert_eq!(register(&port, IDENTIFICATION), 0xc4);
    assert_eq!(
        register(&port, IDENTIFICATION),
        0xc4,
        "asking changes nothing"
    );
    assert_eq!(register(&port, 0), b'b');
    assert_eq!(register(&port, 0), b'c');
    assert_eq!(register(&port, IDENTIFICATION), 0xc1);
    // Nor does it interrupt who does not want to be.
    port.lock().unwrap().write(1, &[0]);
    port.lock().unwrap().receive(b"d");
    assert_eq!(register(&port, IDENTIFICATION), 0xc1);
}
