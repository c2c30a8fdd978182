//! The host's end of the second serial port: the command's streams and its exit status.

mod input;

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
};

use strata_devices::legacy::serial::Output;

use super::{
    frame::{self, Decoder},
    results::Results,
};
use crate::machine::{CommandPort, GuestEvent, Patience, Post};

/// Both directions.
pub struct Link {
    /// Frames for the guest come out here.
    input: UnixStream,
    credit: Arc<Credit>,
    post: Arc<OnceLock<Post>>,
    results: Option<Results>,
}

/// Whether the guest takes the next frame.
#[derive(Default)]
struct Credit {
    free: Mutex<bool>,
    changed: Condvar,
}

impl Credit {
    fn give(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Waits until the guest takes one.
    fn take(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(free, |free| !*free);
        *waited.unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Link {
    /// A link whose input is this program's, which is a terminal if `on_terminal`, and whose
    /// results go where they are wanted.
    ///
    /// # Errors
    /// The host has no descriptor or thread left.
    pub fn new(results: Option<Results>, on_terminal: bool) -> io::Result<Self> {
        let (input, frames) = UnixStream::pair()?;
        input.set_nonblocking(true)?;
        let (credit, post) = (Arc::<Credit>::default(), Arc::<OnceLock<Post>>::default());
        input::start(frames, Arc::clone(&credit), Arc::clone(&post), on_terminal)?;
        Ok(Self {
            input,
            credit,
            post,
            results,
        })
    }

    /// The machine's second serial port.
    pub fn into_port(self) -> CommandPort {
        let Self {
            input,
            credit,
            post: for_keys,
            results,
        } = self;
        let output = move |post: Post, patience: Patience| -> Output {
            // It is called once.
            let _ = for_keys.set(post.clone());
            Box::new(Streams {
                decoder: Decoder::default(),
                patience,
                post,
                credit,
                results,
                broken: false,
            })
        };
        CommandPort {
            input,
            output: Box::new(output),
        }
    }
}

/// Takes the frames of the guest apart, on the vCPU's thread.
struct Streams {
    decoder: Decoder,
    patience: Patience,
    post: Post,
    credit: Arc<Credit>,
    results: Option<Results>,
    /// It has sent what is no frame.
    broken: bool,
}

impl Streams {
    fn take(&mut self, kind: u8, content: &[u8]) {
        match kind {
            frame::READY | frame::TAKEN => self.credit.give(),
            frame::OUTPUT => self.patience.write(&mut io::stdout(), content),
            frame::ERROR => self.patience.write(&mut io::stderr(), content),
            frame::MESSAGE => eprintln!("strata: {}", String::from_utf8_lossy(content)),
            frame::EXIT => {
                let status = content.first().copied().unwrap_or(u8::MAX);
                self.post.guest(GuestEvent::CommandEnded(status));
            }
            _ => self.take_results(kind, content),
        }
    }

    fn take_results(&mut self, kind: u8, content: &[u8]) {
        let Some(results) = &mut self.results else {
            return;
        };
        let taken = match kind {
            frame::DIRECTORY => results.directory(content),
            frame::FILE => results.file(content),
            frame::FILE_DATA => results.data(content),
            _ => Ok(()),
        };
        if let Err(error) = taken {
            self.post.guest(GuestEvent::ResultsLost(error.to_string()));
            self.results = None;
        }
    }
}

impl Write for Streams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.broken {
            self.decoder.push(bytes);
        }
        loop {
            match self.decoder.next() {
                Ok(Some((kind, content))) => self.take(kind, &content),
                Ok(None) => break,
                Err(frame::TooLong) => {
                    self.decoder = Decoder::default();
                    self.broken = true;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
