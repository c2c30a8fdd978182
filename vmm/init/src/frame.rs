//! The frames in which a guest and `strata test` speak over the second serial port.
//!
//! A frame is one byte that says what it is, two bytes of length (little endian), and so many
//! bytes. Both sides use this file, each its part.
#![allow(dead_code)]

/// Bytes of a frame before its content.
pub const HEADER: usize = 3;
/// Bytes of content at most.
pub const MAX: usize = 4096;

/// The guest is there, and reads. Empty.
pub const READY: u8 = b'R';
/// Standard output of the command.
pub const OUTPUT: u8 = b'o';
/// Its standard error.
pub const ERROR: u8 = b'e';
/// What the guest's own part has to say to people.
pub const MESSAGE: u8 = b'm';
/// A directory among the results: its path.
pub const DIRECTORY: u8 = b'd';
/// A file among the results begins: its mode (4 bytes, little endian) and its path.
pub const FILE: u8 = b'p';
/// The next bytes of that file.
pub const FILE_DATA: u8 = b'f';
/// The command has ended: its exit status, one byte. The last frame.
pub const EXIT: u8 = b'x';
/// An [`INPUT`] has been read; the next one may come. Empty.
pub const TAKEN: u8 = b'a';

/// Standard input of the command, at most [`MAX_INPUT`] bytes. From the host; all above are from
/// the guest.
pub const INPUT: u8 = b'i';
/// The caller's terminal has another size: rows and columns, two bytes each (little endian). As an
/// [`INPUT`] it is followed by a [`TAKEN`]. From the host.
pub const WINDOW: u8 = b'w';
/// Standard input has ended. Empty.
pub const INPUT_END: u8 = b'I';

/// Bytes of an [`INPUT`]: with its header it fits into what Linux buffers for a serial port.
pub const MAX_INPUT: usize = 1024;

/// A frame's bytes.
///
/// # Panics
/// If `content` is longer than [`MAX`].
pub fn encode(kind: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= MAX, "a frame that is too long");
    let len = u16::try_from(content.len()).expect("no longer than MAX");
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.push(kind);
    bytes.extend(len.to_le_bytes());
    bytes.extend(content);
    bytes
}

/// Takes frames out of a stream of bytes that comes in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

/// A frame that is longer than frames are: this is no stream of frames.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl Decoder {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
    }

    /// The next frame that is whole: what it is, and its content.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>, TooLong> {
        let [kind, low, high, ref rest @ ..] = self.pending[..] else {
            return Ok(None);
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        if len > MAX {
            return Err(TooLong);
        }
        if rest.len() < len {
            return Ok(None);
        }
        let content = rest[..len].to_vec();
        self.pending.drain(..HEADER + len);
        Ok(Some((kind, content)))
    }
}

#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;
