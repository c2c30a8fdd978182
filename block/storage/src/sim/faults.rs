//! Which calls of a simulated file fail.

/// How often calls fail, of a thousand of each kind. A read that fails has filled some of its
/// buffer; a write that fails is short or torn; after a flush or a write-back that fails, what was
/// not durable is lost, or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads.
    pub read: u32,
    /// Writes.
    pub write: u32,
    /// Flushes.
    pub flush: u32,
    /// Write-back after a write: the next flush reports it.
    pub write_back: u32,
    /// Zeroing, hole punching, and changes of the length.
    pub other: u32,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A write-back.
    WriteBack,
    /// Zeroing, hole punching, a change of the length.
    Other,
}

/// What becomes of a call.
pub(super) enum Outcome {
    Succeeds,
    /// It fails; the number decides how far it got.
    Fails(u64),
}

impl Faults {
    pub(super) fn outcome(self, call: Call, random: u64) -> Outcome {
        let of_thousand = match call {
            Call::Read => self.read,
            Call::Write => self.write,
            Call::Flush => self.flush,
            Call::WriteBack => self.write_back,
            Call::Other => self.other,
        };
        if random % 1000 < u64::from(of_thousand) {
            Outcome::Fails(random >> 10)
        } else {
            Outcome::Succeeds
        }
    }
}
