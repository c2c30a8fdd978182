//! Connecting to a server, and the client's side of the handshake.

use std::{
    cell::Cell,
    io,
    net::{TcpStream, ToSocketAddrs},
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustls::pki_types::ServerName;
use strata_exec::{Executor, Queue};
use zerocopy::{FromBytes, IntoBytes};

use super::uri::{TlsPlan, Uri};
use crate::nbd::wire::{
    Address, TlsClient, TlsError,
    proto::{
        Handshake, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReplyHeader,
        Transmission, info, option, reply,
    },
    stream::{Gone, Reader, Stream, Violation},
};

/// From the first packet to the end of the handshake.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Bytes in a server's reply to an option at most.
const MAX_REPLY: u32 = 64 << 10;

/// Replies to one option at most.
const MAX_REPLIES: usize = 64;

/// Bytes of an export at most: as of a file. Offsets and sums of them fit with room to spare.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Silence after which the host asks whether the server is still there, and how often it asks.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The host could not connect.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server took too long.
    #[error("the server did not answer within 10 seconds")]
    TooLate,
    /// The connection ended within the handshake.
    #[error("during the handshake: {0}")]
    Gone(#[from] Gone),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What the certificate is to name cannot be a name.
    #[error("'{0}' is not a host's name")]
    BadHost(String),
    /// The server does not want to.
    #[error("the server refused: {0}")]
    Refused(String),
}

impl From<Violation> for ConnectError {
    fn from(violation: Violation) -> Self {
        Self::Gone(violation.into())
    }
}

/// What the server has said of its export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Bytes.
    pub size: u64,
    pub flags: Transmission,
    /// Minimum block size in bytes.
    pub minimum: u32,
    /// Bytes of payload at most.
    pub maximum: u32,
    /// Structured replies are used.
    pub structured: bool,
    /// Number of the context `base:allocation`, if it is there.
    pub allocation: Option<u32>,
}

/// Connects, and goes through the handshake, in bounded time.
///
/// # Errors
/// [`ConnectError`].
pub(super) async fn connect(
    exec: &Rc<Executor>,
    uri: &Uri,
) -> Result<(Rc<Stream>, Reader, Facts), ConnectError> {
    let deadline = Instant::now() + CONNECT_TIME;
    let address = uri.address.clone();
    let socket = exec.helpers().run(move || open(&address)).await?;
    let stream = Stream::new(exec, socket)?;
    let mut reader = Reader::new(stream.clone());
    let (late, done) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let timer = {
        let (exec, stream) = (exec.clone(), Rc::downgrade(&stream));
        let (late, done) = (late.clone(), done.clone());
        async move {
            exec.sleep_until(deadline).await;
            if let Some(stream) = stream.upgrade().filter(|_| !done.get()) {
                late.set(true);
                stream.break_off();
            }
        }
    };
    exec.spawn_named(Queue::Guest, "NBD: time to connect", timer);
    let facts = negotiate(&stream, &mut reader, uri).await;
    done.set(true);
    match facts {
        Ok(facts) => Ok((stream, reader, facts)),
        Err(_) if late.get() => Err(ConnectError::TooLate),
        Err(error) => Err(error),
    }
}

/// Opens a connected socket. Blocks for [`CONNECT_TIME`] at most, and on the resolver.
fn open(address: &Address) -> io::Result<OwnedFd> {
    match address {
        Address::Unix(path) => {
            // One that does not block: a server whose backlog is full would hold us for ever.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_path())?)?;
            Ok(socket)
        }
        Address::Tcp { host, port } => {
            let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
            for address in (host.as_str(), *port).to_socket_addrs()? {
                result = TcpStream::connect_timeout(&address, CONNECT_TIME);
                if result.is_ok() {
                    break;
                }
            }
            let socket = OwnedFd::from(result?);
            sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE)?;
            sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE)?;
            sockopt::set_tcp_keepcnt(&socket, KEEP_ALIVE_PROBES)?;
            Ok(socket)
        }
    }
}

async fn negotiate(stream: &Stream, reader: &mut Reader, uri: &Uri) -> Result<Facts, ConnectError> {
    let greeting = reader.take(18).await?;
    let expected = [INIT_MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
    if greeting[..16] != expected {
        return Err(Violation("this is not a server of the newstyle protocol").into());
    }
    let offered = u16::from_be_bytes([greeting[16], greeting[17]]);
    let offered = Handshake::from_bits_truncate(offered.into());
    if !offered.contains(Handshake::FIXED_NEWSTYLE) {
        return Err(Violation("the server does not know the fixed newstyle protocol").into());
    }
    stream
        .send(&[offered.bits().to_be_bytes().to_vec()])
        .await?;
    let export = uri.export.as_str();
    let mut options = Options { stream, reader };
    if let Some(plan) = &uri.tls {
        options.start_tls(plan).await?;
    }
    let structured = options.simple(option::STRUCTURED_REPLY).await?;
    let allocation = if structured {
        options.allocation_context(export).await?
    } else {
        None
    };
    let mut facts = Facts {
        size: 0,
        flags: Transmission::empty(),
        minimum: 1,
        maximum: 32 << 20,
        structured,
        allocation,
    };
    options.go(export, &mut facts).await?;
    if facts.size > MAX_SIZE {
        return Err(Violation("an export of 2^63 bytes or more").into());
    }
    if !facts.minimum.is_power_of_two() || facts.maximum < facts.minimum {
        return Err(Violation("block sizes that make no sense").into());
    }
    facts.maximum -= facts.maximum % facts.minimum;
    Ok(facts)
}

/// The phase in which options are haggled over.
struct Options<'a> {
    stream: &'a Stream,
    reader: &'a mut Reader,
}

impl Options<'_> {
    /// An option without data. Whether the server agrees.
    async fn simple(&mut self, option: u32) -> Result<bool, ConnectError> {
        self.send(option, &[]).await?;
        let (kind, _) = self.reply(option).await?;
        Ok(kind == reply::ACK)
    }

    /// Goes over to TLS. A server that cannot is not used.
    async fn start_tls(&mut self, plan: &TlsPlan) -> Result<(), ConnectError> {
        let client = TlsClient::load(&plan.dir)?;
        let host = ServerName::try_from(plan.host.clone());
        let host = host.map_err(|_| ConnectError::BadHost(plan.host.clone()))?;
        if !self.simple(option::STARTTLS).await? {
            return Err(ConnectError::Refused("it has no TLS".into()));
        }
        if !self.reader.is_empty() {
            return Err(Violation("bytes in the clear after STARTTLS").into());
        }
        let connection = client.connection(host).map_err(io::Error::other)?;
        Ok(self.stream.start_tls(connection).await?)
    }

    /// Asks for `base:allocation`; its number, where the server has it.
    async fn allocation_context(&mut self, export: &str) -> Result<Option<u32>, ConnectError> {
        let query = "base:allocation";
        let mut data = string(export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(query));
        self.send(option::SET_META_CONTEXT, &data).await?;
        let mut id = None;
        for _ in 0..MAX_REPLIES {
            let (kind, data) = self.reply(option::SET_META_CONTEXT).await?;
            match (kind, data.split_first_chunk()) {
                (reply::META_CONTEXT, Some((number, name))) if name == query.as_bytes() => {
                    id = Some(u32::from_be_bytes(*number));
                }
                (reply::META_CONTEXT, _) => {}
                (reply::ACK, _) => return Ok(id),
                // An unknown export, or an unknown option: GO will show which.
                _ => return Ok(None),
            }
        }
        Err(Violation("too many replies to one option").into())
    }

    async fn go(&mut self, export: &str, facts: &mut Facts) -> Result<(), ConnectError> {
        let mut data = string(export);
        data.extend(1u16.to_be_bytes());
        data.extend(info::BLOCK_SIZE.to_be_bytes());
        self.send(option::GO, &data).await?;
        let mut known = false;
        for _ in 0..MAX_REPLIES {
            let (kind, data) = self.reply(option::GO).await?;
            match kind {
                reply::INFO => known |= note(&data, facts),
                reply::ACK if known => return Ok(()),
                reply::ACK => return Err(Violation("no size was told").into()),
                error => return Err(refusal(error, &data, export)),
            }
        }
        Err(Violation("too many replies to one option").into())
    }

    async fn send(&mut self, option: u32, data: &[u8]) -> Result<(), ConnectError> {
        let len = u32::try_from(data.len()).expect("an export's name and a few bytes");
        let header = OptionHeader {
            magic: OPTION_MAGIC.into(),
            option: option.into(),
            len: len.into(),
        };
        let piece = [header.as_bytes(), data].concat();
        Ok(self.stream.send(&[piece]).await?)
    }

    async fn reply(&mut self, option: u32) -> Result<(u32, Vec<u8>), ConnectError> {
        let mut header = [0; size_of::<OptionReplyHeader>()];
        self.reader.fill(&mut header).await?;
        let bad = Violation("a malformed reply to an option");
        let header = OptionReplyHeader::read_from_bytes(&header).map_err(|_| bad)?;
        if header.magic != OPTION_REPLY_MAGIC || header.option != option || header.len > MAX_REPLY {
            return Err(bad.into());
        }
        let data = self.reader.take(header.len.get() as usize).await?;
        Ok((header.kind.get(), data))
    }
}

/// Takes note of an information; whether it was the one that has to come.
fn note(data: &[u8], facts: &mut Facts) -> bool {
    let Some((kind, data)) = data.split_first_chunk() else {
        return false;
    };
    match (u16::from_be_bytes(*kind), data) {
        (info::EXPORT, &[a, b, c, d, e, f, g, h, high, low]) => {
            facts.size = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            facts.flags = Transmission::from_bits_truncate(u16::from_be_bytes([high, low]));
            true
        }
        (info::BLOCK_SIZE, &[a, b, c, d, _, _, _, _, e, f, g, h]) => {
            facts.minimum = u32::from_be_bytes([a, b, c, d]);
            // Our own requests need not be larger than what everybody takes.
            facts.maximum = facts.maximum.min(u32::from_be_bytes([e, f, g, h]));
            false
        }
        _ => false,
    }
}

fn refusal(kind: u32, data: &[u8], export: &str) -> ConnectError {
    let said = String::from_utf8_lossy(data);
    ConnectError::Refused(match kind {
        reply::ERR_UNKNOWN => format!("it has no export '{export}'"),
        reply::ERR_TLS_REQD => "it wants TLS: write nbds:// or nbds+unix://".into(),
        _ if said.is_empty() => format!("error {:#x}", kind & !reply::ERROR),
        _ => said.into_owned(),
    })
}

fn string(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).expect("an export's name, or our own text");
    [&len.to_be_bytes(), text.as_bytes()].concat()
}
