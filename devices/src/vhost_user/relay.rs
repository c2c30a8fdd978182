//! What stands between the front end and the library.
//!
//! A device whose configuration changes says so on a channel that the front end gives it. The
//! library (`vhost` 0.18) takes the channel's descriptor, has no such message and does not give the
//! descriptor away. So what the front end sends goes by here, message by message, and on to the
//! library as it is.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use vhost::vhost_user::message::{FrontendReq, MAX_ATTACHED_FD_ENTRIES};

use super::channel::Channel;

/// Request, flags and the length of the body, 4 bytes each.
const HEADER: usize = 12;
/// Bytes of a body. The library ends a connection on whose header more is announced.
const MAX_BODY: usize = 4096;

/// A front end that has just come has to say SET_OWNER within so much time, and the rest of a
/// message whose beginning it has said. One that owns the device may be silent for as long as it
/// likes: so is one whose guest has not found the disk yet.
const SILENCE: Duration = Duration::from_millis(if cfg!(test) { 700 } else { 30_000 });

fn silent() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the front end has said nothing for too long",
    )
}

/// A socket where the library listens and nobody else can knock: it has no name.
pub struct Entrance {
    listener: UnixListener,
    /// The file that it was bound to.
    file: OwnedFd,
}

impl Entrance {
    /// A new one.
    ///
    /// # Errors
    /// The host has no descriptors left, or no directory for temporary files.
    pub fn new() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(CWD, &path, flags, Mode::empty())?;
        Ok(Self { listener, file })
    }

    /// What the library accepts at.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Knocks.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The two conversations that one connection consists of.
pub struct Connection {
    /// With the front end.
    pub front: UnixStream,
    /// With the library.
    pub library: UnixStream,
}

impl Connection {
    /// Passes on what is said, until one side goes, the front end says nothing for [`SILENCE`]
    /// where it has to, or `lost` becomes readable: its memory is missing. At the end both are cut
    /// off.
    pub fn relay(&self, channel: &Channel, lost: &OwnedFd) {
        match self.pass_on(channel, lost) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => tracing::warn!(%error, "a vhost-user connection has been ended"),
            Ok(()) => {}
        }
        self.cut();
    }

    /// Cuts both sides off.
    pub fn cut(&self) {
        for socket in [&self.front, &self.library] {
            // Fails where the other side has gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn pass_on(&self, channel: &Channel, lost: &OwnedFd) -> io::Result<()> {
        let mut answers = [0; MAX_BODY];
        // Until then it has to own us, or somebody else may want to.
        let mut deadline = Some(Instant::now() + SILENCE);
        self.front.set_read_timeout(Some(SILENCE))?;
        self.front.set_write_timeout(Some(SILENCE))?;
        loop {
            let ready = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
            let mut fds = [self.front.as_fd(), self.library.as_fd(), lost.as_fd()].map(ready);
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            if retry_on_intr(|| poll(&mut fds, timeout.as_ref()))? == 0 {
                return Err(silent());
            }
            let [from_front, from_library, is_lost] = fds.map(|fd| !fd.revents().is_empty());
            if is_lost {
                return Err(io::Error::other("the front end has taken its memory away"));
            }
            if from_library {
                match (&self.library).read(&mut answers)? {
                    0 => return Ok(()),
                    len => (&self.front).write_all(&answers[..len])?,
                }
            }
            if from_front {
                let Some(message) = Message::receive(&self.front)? else {
                    return self.finish();
                };
                message.show(channel)?;
                if message.word(0) == Some(FrontendReq::SET_OWNER.into()) {
                    deadline = None;
                }
                message.send(&self.library)?;
            }
        }
    }

    /// The front end says nothing more, but may wait for answers.
    fn finish(&self) -> io::Result<()> {
        self.library.shutdown(Shutdown::Write)?;
        io::copy(&mut &self.library, &mut &self.front).map(drop)
    }
}

/// One message of the front end.
struct Message {
    /// Header and body, or what there was of them before the front end went.
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Message {
    /// The next one, or `None` at the end.
    fn receive(socket: &UnixStream) -> io::Result<Option<Self>> {
        let mut message = Self {
            bytes: Vec::with_capacity(HEADER),
            descriptors: Vec::new(),
        };
        message.fill(socket, HEADER)?;
        let len = message.word(2).map(|len| len as usize);
        if let Some(len) = len.filter(|len| *len <= MAX_BODY) {
            message.fill(socket, HEADER + len)?;
        }
        Ok((!message.bytes.is_empty()).then_some(message))
    }

    /// Receives until there are `len` bytes or no more come.
    fn fill(&mut self, socket: &UnixStream, len: usize) -> io::Result<()> {
        let mut have = self.bytes.len();
        self.bytes.resize(len, 0);
        while have < len {
            let mut space =
                [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = retry_on_intr(|| {
                let piece = &mut [IoSliceMut::new(&mut self.bytes[have..])];
                recvmsg(socket, piece, &mut control, RecvFlags::CMSG_CLOEXEC)
            });
            let received = match received {
                Err(Errno::AGAIN) => return Err(silent()),
                received => received?,
            };
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = item {
                    self.descriptors.extend(descriptors);
                }
            }
            if received.bytes == 0 {
                self.bytes.truncate(have);
                break;
            }
            have += received.bytes;
        }
        Ok(())
    }

    /// A number of the header, if that is complete.
    fn word(&self, index: usize) -> Option<u32> {
        let header = self.bytes.get(..HEADER)?;
        header
            .as_chunks()
            .0
            .get(index)
            .copied()
            .map(u32::from_ne_bytes)
    }

    fn show(&self, channel: &Channel) -> io::Result<()> {
        match self.word(0) {
            Some(request) => channel.look_at(request, &self.bytes[HEADER..], &self.descriptors),
            None => Ok(()),
        }
    }

    fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("a message with too many descriptors"));
        }
        let sent = retry_on_intr(|| {
            let bytes = &[IoSlice::new(&self.bytes)];
            sendmsg(socket, bytes, &mut control, SendFlags::NOSIGNAL)
        })?;
        // A signal may have come in between.
        (&mut &*socket).write_all(&self.bytes[sent..])
    }
}
