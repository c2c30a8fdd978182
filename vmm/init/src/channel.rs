//! The guest's end of the second serial port.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    frame::{self, Decoder},
    sys,
};

const PORT: &str = "/dev/ttyS1";

/// Sends frames, from any thread, and receives them, on one.
pub struct Channel {
    port: Mutex<File>,
    incoming: File,
    /// Frames so far.
    sent: AtomicU64,
}

impl Channel {
    /// Opens the port.
    pub fn open() -> Result<Self, String> {
        let open = || -> std::io::Result<Self> {
            let port = OpenOptions::new().read(true).write(true).open(PORT)?;
            sys::make_raw(&port)?;
            let incoming = port.try_clone()?;
            Ok(Self {
                port: Mutex::new(port),
                incoming,
                sent: AtomicU64::new(0),
            })
        };
        open().map_err(|error| {
            format!("the guest's kernel gives no second serial port, {PORT}: {error}")
        })
    }

    /// Sends a frame, or several where `content` is longer than one.
    pub fn send(&self, kind: u8, content: &[u8]) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = content.chunks(frame::MAX);
        let first = pieces.next().unwrap_or_default();
        for piece in std::iter::once(first).chain(pieces) {
            // There is no other way out by which a failure could be reported.
            let _ = port.write_all(&frame::encode(kind, piece));
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Frames that have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether a frame is on its way.
    pub fn is_sending(&self) -> bool {
        self.port.try_lock().is_err()
    }

    /// Sends the command's exit status, and waits until it has gone out.
    pub fn finish(&self, status: u8) {
        self.send(frame::EXIT, &[status]);
        sys::drain(&self.port.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Calls `take` with each frame that comes, for ever.
    pub fn receive(&self, mut take: impl FnMut(u8, &[u8])) {
        let mut decoder = Decoder::default();
        let mut bytes = [0; frame::MAX];
        while let Ok(count @ 1..) = (&self.incoming).read(&mut bytes) {
            decoder.push(&bytes[..count]);
            while let Ok(Some((kind, content))) = decoder.next() {
                take(kind, &content);
            }
        }
    }
}
