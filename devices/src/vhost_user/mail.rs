//! What the library's threads tell the device thread.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
};

use strata_block::exec::{Executor, Watched};
use vhost_user_backend::VringMutex;
use vm_memory::GuestMemoryMmap;

/// One message. Those with an answer are waited for.
pub enum Letter {
    /// The driver has put something into a ring.
    Kick {
        /// Which ring.
        queue: u16,
        /// What the front end has said about it.
        vring: VringMutex,
        /// Negotiated features.
        features: u64,
        /// To be set to false before the ring is looked at: the next kick is another letter.
        seen: Arc<AtomicBool>,
    },
    /// The guest's memory is another from now on.
    Memory(Arc<GuestMemoryMmap>, Sender<()>),
    /// Drain a ring and let go of it.
    Stop {
        /// Which ring.
        queue: u16,
        /// Where it stopped: the next available and the next used index.
        position: Sender<(u16, u16)>,
    },
    /// The same with all rings.
    Reset(Sender<()>),
}

/// The sending side.
pub struct Mail {
    // In this order: the bell rings when the sender has gone, so that the worker sees it.
    letters: Sender<Letter>,
    bell: LastRing,
}

/// A bell that rings when it is dropped, too.
struct LastRing(Arc<UnixStream>);

/// The receiving side, on the device thread.
pub struct PostBox {
    letters: Receiver<Letter>,
    bell: Arc<UnixStream>,
    /// Readable after each letter and each ring of the bell.
    ear: Watched<UnixStream>,
}

/// Both sides.
///
/// # Errors
/// The host has no descriptors left.
pub fn open(exec: &Executor) -> io::Result<(Mail, PostBox)> {
    let (bell, ear) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ear.set_nonblocking(true)?;
    let (bell, (sender, receiver)) = (Arc::new(bell), channel());
    let post_box = PostBox {
        letters: receiver,
        bell: bell.clone(),
        ear: Watched::new(exec, ear)?,
    };
    let mail = Mail {
        letters: sender,
        bell: LastRing(bell),
    };
    Ok((mail, post_box))
}

/// Fails only when there are bytes enough to wake the other side already.
fn ring(mut bell: &UnixStream) {
    let _ = bell.write(b"!");
}

impl Mail {
    /// Sends a letter. One that nobody will read is dropped, with its way to answer.
    pub fn send(&self, letter: Letter) {
        if self.letters.send(letter).is_ok() {
            ring(&self.bell.0);
        }
    }
}

impl Drop for LastRing {
    fn drop(&mut self) {
        ring(&self.0);
    }
}

impl PostBox {
    /// The next letter, if there is one.
    ///
    /// # Errors
    /// [`TryRecvError::Disconnected`]: there will never be one.
    pub fn next(&self) -> Result<Letter, TryRecvError> {
        self.letters.try_recv()
    }

    /// The bell, for those who want the worker to look at its rings.
    pub fn bell(&self) -> impl Fn() + 'static {
        let bell = self.bell.clone();
        move || ring(&bell)
    }

    /// Waits until the bell has been rung since the last time.
    pub async fn heard(&self) {
        // It cannot end: this side holds the bell, too.
        let _ = self.ear.readable(|mut ear| ear.read(&mut [0; 64])).await;
    }
}
