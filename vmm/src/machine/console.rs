//! The host's end of the serial port: this terminal, a file, a socket, or nothing.

mod keyboard;
mod output;
mod socket;
mod transcript;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use event_manager::MutEventSubscriber;
use strata_devices::legacy::serial::{Output, SerialInput, SerialPort};

pub use self::transcript::{Recorded, Transcript};
use self::{keyboard::Keyboard, output::Patient, socket::SocketSource};
pub use self::{
    keyboard::{Keys, RawTerminal},
    output::Patience,
};
use super::post::Post;
use crate::cli::serial::SerialEndpoint;

/// The endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not open --serial {kind}:{}: {source}", path.display())]
pub struct ConsoleError {
    kind: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where the port's input comes from.
enum Source {
    None,
    Keyboard,
    Socket(SocketSource),
}

/// An open endpoint.
pub struct Console {
    source: Source,
    hurry: Arc<AtomicBool>,
}

impl Console {
    /// Opens `endpoint`. The second value is for the port.
    ///
    /// # Errors
    /// The host's.
    pub fn open(endpoint: &SerialEndpoint) -> Result<(Self, Output), ConsoleError> {
        let hurry = Arc::new(AtomicBool::new(false));
        let (source, output): (_, Output) = match endpoint {
            SerialEndpoint::None => (Source::None, Box::new(io::sink())),
            SerialEndpoint::Stdio => {
                let output = Patient::new(io::stdout(), Arc::clone(&hurry));
                (Source::Keyboard, Box::new(output))
            }
            SerialEndpoint::File(path) => {
                let file = File::create(path).map_err(failed("file", path))?;
                (Source::None, Box::new(file))
            }
            SerialEndpoint::Unix(path) => {
                let source = SocketSource::listen(path).map_err(failed("unix", path))?;
                let output = source.output(Arc::clone(&hurry));
                (Source::Socket(source), Box::new(output))
            }
        };
        Ok((Self { source, hurry }, output))
    }

    /// Whether output that nobody takes holds the guest up (as a slow line does), or is dropped.
    /// It must not hold up a guest that is to be parked.
    pub fn hurry(&self) -> Hurry {
        Hurry(Arc::clone(&self.hurry))
    }

    /// The same for output of other ports.
    pub fn patience(&self) -> Patience {
        Patience(Arc::clone(&self.hurry))
    }

    /// What feeds `port` on the event loop, if anything does. Switches a terminal to raw mode.
    pub fn input(
        self,
        port: Arc<Mutex<SerialPort>>,
        post: Post,
    ) -> Option<Box<dyn MutEventSubscriber>> {
        match self.source {
            Source::None => None,
            Source::Keyboard => Some(Box::new(SerialInput::new(port, Keyboard::new(post)))),
            Source::Socket(source) => Some(Box::new(SerialInput::new(port, source))),
        }
    }
}

/// Names the endpoint in an error.
fn failed<E: Into<io::Error>>(kind: &'static str, path: &Path) -> impl Fn(E) -> ConsoleError {
    let path = path.to_owned();
    move |source| ConsoleError {
        kind,
        path: path.clone(),
        source: source.into(),
    }
}

/// See [`Console::hurry`].
pub struct Hurry(Arc<AtomicBool>);

impl Hurry {
    /// From now on, output is dropped (or not) where nobody takes it.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Release);
    }
}
