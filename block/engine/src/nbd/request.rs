//! Requests of the transmission phase: their headers, and what may be carried out of them.

use strata_storage::nbd::wire::{
    proto::{
        CommandFlags, EXTENDED_REQUEST_MAGIC, Errno, MAX_PAYLOAD, REQUEST_MAGIC, RequestStart,
        command,
    },
    stream::Violation,
};
use zerocopy::FromBytes;

/// Bytes of a compact and of an extended header.
pub(super) const HEADER_LEN: usize = 28;
pub(super) const EXTENDED_HEADER_LEN: usize = 32;

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub flags: u16,
    pub kind: u16,
    /// Opaque; comes back in the reply.
    pub cookie: u64,
    pub offset: u64,
    /// Bytes that the request works on, or of payload.
    pub len: u64,
    /// Bytes that follow the header; at most [`MAX_PAYLOAD`].
    pub payload: u32,
}

/// A request that gets an error for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub errno: Errno,
    /// For people.
    pub why: &'static str,
}

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of the export.
    pub size: u64,
    /// Offsets and lengths are multiples of it.
    pub block: u64,
    pub read_only: bool,
    /// Structured or extended replies.
    pub structured: bool,
    /// Some metadata context was selected.
    pub contexts: bool,
}

/// A request that may be carried out: aligned and within the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Read; in one piece if asked for.
    Read { offset: u64, len: u64, whole: bool },
    /// Write the payload.
    Write { offset: u64, len: u64, fua: bool },
    /// Make durable.
    Flush,
    /// Give up.
    Trim { offset: u64, len: u64, fua: bool },
    /// Will be read soon.
    Cache { offset: u64, len: u64 },
    /// Zero; with `fast` only if that beats writing.
    Zero {
        offset: u64,
        len: u64,
        unmap: bool,
        fast: bool,
        fua: bool,
    },
    /// What the range holds; with `one` only its first extent.
    Status { offset: u64, len: u64, one: bool },
}

impl Header {
    /// Parses a header of [`HEADER_LEN`] or [`EXTENDED_HEADER_LEN`] bytes, which the length says.
    ///
    /// # Errors
    /// A wrong magic number, or a payload that is too long to be received: what follows cannot be
    /// distinguished from garbage, or not be passed over in reasonable time.
    pub fn parse(bytes: &[u8]) -> Result<Self, Violation> {
        let bad = Violation("a request with a wrong magic number");
        let (start, rest) = RequestStart::read_from_prefix(bytes).map_err(|_| bad)?;
        let (magic, len) = match rest.try_into() {
            Ok(len) => (EXTENDED_REQUEST_MAGIC, Some(u64::from_be_bytes(len))),
            Err(_) => (REQUEST_MAGIC, rest.try_into().ok().map(compact_len)),
        };
        let len = len.filter(|_| start.magic == magic).ok_or(bad)?;
        let (flags, kind) = (start.flags.get(), start.kind.get());
        let has_payload = if magic == EXTENDED_REQUEST_MAGIC {
            CommandFlags::from_bits_retain(flags).contains(CommandFlags::PAYLOAD_LEN)
        } else {
            kind == command::WRITE
        };
        let payload = match u32::try_from(len) {
            _ if !has_payload => 0,
            Ok(len) if len <= MAX_PAYLOAD => len,
            _ => return Err(Violation("a payload that is longer than advertised")),
        };
        Ok(Self {
            flags,
            kind,
            cookie: start.cookie.get(),
            offset: start.offset.get(),
            len,
            payload,
        })
    }

    /// Checks the request; `extended` says which kind of header it had.
    ///
    /// # Errors
    /// The error to send to the client.
    pub fn command(&self, limits: &Limits, extended: bool) -> Result<Command, Refusal> {
        let mut flags = CommandFlags::from_bits(self.flags)
            .filter(|flags| self.allowed_flags(limits, extended).contains(*flags))
            .ok_or(refuse(
                Errno::Inval,
                "a flag that the command does not have",
            ))?;
        if extended && self.kind == command::WRITE && !flags.contains(CommandFlags::PAYLOAD_LEN) {
            return Err(refuse(Errno::Inval, "a write without a payload"));
        }
        let mut take = |flag| {
            let set = flags.contains(flag);
            flags.remove(flag);
            set
        };
        let (offset, len) = (self.offset, self.len);
        let fua = take(CommandFlags::FUA);
        let command = match self.kind {
            command::READ => Command::Read {
                offset,
                len,
                whole: take(CommandFlags::DF),
            },
            command::WRITE => Command::Write { offset, len, fua },
            // Its offset and length are reserved.
            command::FLUSH => return Ok(Command::Flush),
            command::TRIM => Command::Trim { offset, len, fua },
            command::CACHE => Command::Cache { offset, len },
            command::WRITE_ZEROES => Command::Zero {
                offset,
                len,
                unmap: !take(CommandFlags::NO_HOLE),
                fast: take(CommandFlags::FAST_ZERO),
                fua,
            },
            command::BLOCK_STATUS => Command::Status {
                offset,
                len,
                one: take(CommandFlags::REQ_ONE),
            },
            _ => return Err(refuse(Errno::Inval, "an unknown command")),
        };
        self.check_range(&command, limits)?;
        Ok(command)
    }

    /// "Command flags": FUA is allowed everywhere, as existing clients set it everywhere.
    fn allowed_flags(&self, limits: &Limits, extended: bool) -> CommandFlags {
        let own = match self.kind {
            command::READ if limits.structured => CommandFlags::DF,
            command::WRITE if extended => CommandFlags::PAYLOAD_LEN,
            command::WRITE_ZEROES => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            command::BLOCK_STATUS => CommandFlags::REQ_ONE,
            _ => CommandFlags::empty(),
        };
        own | CommandFlags::FUA
    }

    fn check_range(&self, command: &Command, limits: &Limits) -> Result<(), Refusal> {
        let writes = matches!(
            command,
            Command::Write { .. } | Command::Trim { .. } | Command::Zero { .. }
        );
        if writes && limits.read_only {
            return Err(refuse(Errno::Perm, "the export is read-only"));
        }
        let end = self.offset.checked_add(self.len);
        if end.is_none_or(|end| end > limits.size) {
            let errno = match command {
                Command::Write { .. } | Command::Zero { .. } => Errno::NoSpace,
                _ => Errno::Inval,
            };
            return Err(refuse(errno, "beyond the end of the export"));
        }
        if !self.offset.is_multiple_of(limits.block) || !self.len.is_multiple_of(limits.block) {
            return Err(refuse(Errno::Inval, "not a multiple of the block size"));
        }
        match command {
            Command::Read { len, .. } if *len > u64::from(MAX_PAYLOAD) => {
                let errno = if limits.structured {
                    Errno::Overflow
                } else {
                    Errno::Inval
                };
                Err(refuse(errno, "longer than the maximum payload"))
            }
            Command::Status { .. } if !limits.contexts => {
                Err(refuse(Errno::Inval, "no metadata context was selected"))
            }
            Command::Status { len: 0, .. } => Err(refuse(Errno::Inval, "an empty range")),
            _ => Ok(()),
        }
    }
}

fn compact_len(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_be_bytes(bytes))
}

fn refuse(errno: Errno, why: &'static str) -> Refusal {
    Refusal { errno, why }
}

#[cfg(test)]
mod tests;
