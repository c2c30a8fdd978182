//! Cache modes, as `-t` and `-T` name them.
//!
//! All I/O goes through the host's page cache: `none` and `directsync` differ from `writeback` and
//! `writethrough` only in what they ask of the host, not in what is durable when a command ends.

/// When what a command writes becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// At the end of the command, at the latest.
    Durable,
    /// When the host gets to it.
    Unsafe,
}

impl CacheMode {
    /// Reads the value of an option; `what` names it in the error.
    pub fn parse(name: &str, what: &str) -> Result<Self, String> {
        match name {
            "none" | "off" | "writeback" | "writethrough" | "directsync" => Ok(Self::Durable),
            "unsafe" => Ok(Self::Unsafe),
            _ => Err(format!("Invalid {what} option: {name}")),
        }
    }
}
