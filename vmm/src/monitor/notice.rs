//! What reaches the monitor thread from others: answers, and news for every QMP client.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use strata_block::api::{CmdError, Event, JobInfo, Reply};
use strata_exec::inbox::{Inbox, Sender, channel};

/// Something that happened to the machine; it is reported to QMP clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The block layer's events.
    Block(Event),
    /// `STOP`: vCPUs no longer run.
    Stop,
    /// `DEVICE_DELETED`: a device has gone.
    DeviceDeleted {
        /// Its id, if it had one; none for the part of it behind its transport.
        device: Option<String>,
        /// Its path, as QEMU names it.
        path: String,
    },
    /// `RESUME`: vCPUs run.
    Resume,
    /// `RESET`.
    Reset {
        /// By the guest itself, not by `system_reset`.
        guest: bool,
    },
    /// `POWERDOWN`: the power button was pressed.
    Powerdown,
    /// `SUSPEND`: the guest has suspended to memory.
    Suspend,
    /// `WAKEUP`: it goes on.
    Wakeup,
    /// `GUEST_PANICKED`.
    GuestPanicked(PanicAction),
    /// `GUEST_CRASHLOADED`: the guest's kernel has panicked, and another one takes over.
    GuestCrashLoaded,
    /// `X_STRATA_JOB_PROGRESS`: how far a job is, for the clients that have asked for that.
    JobProgress(Box<JobInfo>),
    /// `SHUTDOWN`: the machine is about to end.
    Shutdown(ShutdownCause),
}

/// `GuestPanicAction`: what the machine makes of a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanicAction {
    /// The guest goes on.
    Run,
    /// It is stopped.
    Pause,
    /// The run ends.
    Poweroff,
}

/// `ShutdownCause`, as far as it exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered off.
    Guest,
    /// The guest reset itself where a reset ends the machine.
    GuestReset,
    /// The guest panicked where that ends the machine.
    GuestPanic,
    /// `system_reset` where a reset ends the machine.
    SystemReset,
    /// `quit`.
    Quit,
    /// SIGTERM or SIGINT.
    Signal,
    /// Something failed on the host.
    HostError,
}

/// What travels through the mailbox.
#[derive(Debug)]
pub(super) enum Message {
    /// The result of a client's request.
    Answer {
        /// The client's token.
        client: u64,
        /// The result.
        result: Result<Reply, CmdError>,
    },
    /// News, and when it happened.
    Notice(SystemTime, Notice),
    /// Send what is queued and end.
    Close,
}

/// Tells the monitor what happens. Cheap to clone; usable from any thread, also before the monitor
/// has started and after it has ended.
#[derive(Debug, Clone)]
pub struct Notifier {
    sender: Sender<Message>,
}

impl Notifier {
    /// Stamps `notice` with the time and sends it to the monitor.
    pub fn notify(&self, notice: Notice) {
        self.post(Message::Notice(SystemTime::now(), notice));
    }

    pub(super) fn post(&self, message: Message) {
        // If the monitor has ended, there are no clients left.
        self.sender.send(message);
    }
}

/// The monitor thread's end of the channel.
#[derive(Debug)]
pub struct Mailbox {
    inbox: Inbox<Message>,
    notifier: Notifier,
}

impl Mailbox {
    /// A channel that nobody has written to.
    ///
    /// # Errors
    /// The host has no file descriptor left.
    pub fn new() -> std::io::Result<Mailbox> {
        let (sender, inbox) = channel()?;
        Ok(Mailbox {
            inbox,
            notifier: Notifier { sender },
        })
    }

    /// A handle for those who write.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Takes what has come.
    pub(super) fn take(&self) -> impl Iterator<Item = Message> + '_ {
        std::iter::from_fn(|| self.inbox.receive().ok())
    }
}

/// Readable when something may have come.
impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }
}
