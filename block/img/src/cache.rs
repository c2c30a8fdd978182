//! Cache modes, as `-t` and `-T` name them.

/// How what a command reads and writes is cached by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheMode {
    /// What is written becomes durable when the host gets to it; otherwise at the end of the
    /// command, at the latest. `writethrough` and `directsync` ask for no more than that here.
    pub no_flush: bool,
    /// It goes past the page cache.
    pub direct: bool,
}

impl CacheMode {
    /// Reads the value of an option; `what` names it in the error.
    pub fn parse(name: &str, what: &str) -> Result<Self, String> {
        let (no_flush, direct) = match name {
            "writeback" | "writethrough" => (false, false),
            "none" | "off" | "directsync" => (false, true),
            "unsafe" => (true, false),
            _ => return Err(format!("Invalid {what} option: {name}")),
        };
        Ok(Self { no_flush, direct })
    }
}
