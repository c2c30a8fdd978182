//! What the library's threads send to the device thread.

use std::sync::{Arc, atomic::AtomicBool, mpsc::Sender};

use vhost_user_backend::VringMutex;
use vm_memory::GuestMemoryMmap;

/// One message. Those with an answer are waited for.
pub enum Message {
    /// The driver has put something into a ring.
    Kick {
        /// Which ring.
        queue: u16,
        /// What the front end has said about it.
        vring: VringMutex,
        /// Negotiated features.
        features: u64,
        /// To be set to false before the ring is looked at: the next kick is another message.
        waiting: Arc<AtomicBool>,
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
