//! Why a command has failed, in SCSI's words (SPC-3, 4.5).

/// The kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Nothing to report.
    None = 0x0,
    /// There is no disc to work on.
    NotReady = 0x2,
    /// The disc cannot be read.
    MediumError = 0x3,
    /// The command makes no sense.
    IllegalRequest = 0x5,
    /// Something has happened that the host should know.
    UnitAttention = 0x6,
    /// The command was given up.
    AbortedCommand = 0xb,
}

/// A failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Its kind.
    pub key: Key,
    /// Additional sense code, and its qualifier.
    pub code: (u8, u8),
}

impl Sense {
    /// No failure.
    pub const NONE: Self = Self::new(Key::None, 0x00, 0x00);
    /// The tray is closed, and empty.
    pub const NO_MEDIUM: Self = Self::new(Key::NotReady, 0x3a, 0x01);
    /// The tray is open.
    pub const TRAY_OPEN: Self = Self::new(Key::NotReady, 0x3a, 0x02);
    /// A block cannot be read.
    pub const UNREADABLE: Self = Self::new(Key::MediumError, 0x11, 0x00);
    /// There is no such command.
    pub const UNKNOWN_COMMAND: Self = Self::new(Key::IllegalRequest, 0x20, 0x00);
    /// There is no such block.
    pub const OUT_OF_RANGE: Self = Self::new(Key::IllegalRequest, 0x21, 0x00);
    /// A field of the command has a value that means nothing here.
    pub const INVALID_FIELD: Self = Self::new(Key::IllegalRequest, 0x24, 0x00);
    /// There are no saved parameters.
    pub const NOT_SAVED: Self = Self::new(Key::IllegalRequest, 0x39, 0x00);
    /// The host has locked the tray.
    pub const LOCKED: Self = Self::new(Key::IllegalRequest, 0x53, 0x02);
    /// There may be another disc.
    pub const MEDIUM_CHANGED: Self = Self::new(Key::UnitAttention, 0x28, 0x00);
    /// The bus master could not take the data.
    pub const DATA_PHASE: Self = Self::new(Key::AbortedCommand, 0x4b, 0x00);

    const fn new(key: Key, code: u8, qualifier: u8) -> Self {
        Self {
            key,
            code: (code, qualifier),
        }
    }
}
