//! Output that can be slow.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// How often a waiting write looks whether it should give up.
const SLICE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

const NONE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Waits until `target` takes what is written, but not when there is a hurry: a vCPU waits here,
/// and somebody waits for that vCPU. Then the bytes are dropped.
pub struct Patient<W> {
    target: W,
    hurry: Arc<AtomicBool>,
}

/// For output that goes to different places: each write waits, but not when there is a hurry.
#[derive(Clone)]
pub struct Patience(pub(super) Arc<AtomicBool>);

impl Patience {
    /// Writes all of it. What nobody takes, or what cannot be written, is dropped.
    pub fn write(&self, target: &mut (impl Write + AsFd), bytes: &[u8]) {
        let mut patient = Patient::new(target, Arc::clone(&self.0));
        let _ = patient.write_all(bytes).and_then(|()| patient.flush());
    }
}

impl<W: Write + AsFd> Patient<W> {
    /// Writes to `target`; `hurry` says when not to wait.
    pub fn new(target: W, hurry: Arc<AtomicBool>) -> Self {
        Self { target, hurry }
    }

    /// Whether the target takes bytes now, or has an error to report.
    fn ready(&self) -> bool {
        loop {
            let hurry = self.hurry.load(Ordering::Acquire);
            let patience = if hurry { &NONE } else { &SLICE };
            let mut fds = [PollFd::new(&self.target, PollFlags::OUT)];
            match poll(&mut fds, Some(patience)) {
                Ok(0) | Err(Errno::INTR) if hurry => return false,
                Ok(0) | Err(Errno::INTR) => {}
                // An error of the target shows when it is written to.
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ready() {
            self.target.write(bytes)
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}
