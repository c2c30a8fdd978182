//! What the guest is to do, as `strata test` wrote it into the initramfs.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// Where the plan is: pairs of a word and a value, each ended by a NUL byte.
pub const PATH: &str = "/strata/plan";

/// Which disk has the root: the first of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootDisk {
    /// The first virtio-blk device.
    Virtio,
    /// The first drive on the first IDE channel.
    Ide,
}

/// The plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Modules to load, in order.
    pub modules: Vec<String>,
    /// The disk whose file system is the root; the initramfs itself without one.
    pub root: Option<RootDisk>,
    /// Drivers that must be built in, as the host has found no modules of this kernel.
    pub built_in: Vec<String>,
    /// File systems to try there.
    pub file_systems: Vec<String>,
    /// Directories of the initramfs, and where they are wanted.
    pub shares: Vec<(String, String)>,
    /// Rows and columns of the caller's terminal, where the command is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The results are wanted.
    pub out: bool,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Plan {
    /// Reads one.
    ///
    /// # Errors
    /// The word that makes no sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut parts = bytes.split(|&byte| byte == 0);
        while let (Some(word), Some(value)) = (parts.next(), parts.next()) {
            plan.take(word, value)
                .ok_or_else(|| format!("the plan has '{}'", String::from_utf8_lossy(word)))?;
        }
        Ok(plan)
    }

    fn take(&mut self, word: &[u8], value: &[u8]) -> Option<()> {
        let text = || String::from_utf8(value.to_vec()).ok();
        let native = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        match word {
            b"module" => self.modules.push(text()?),
            b"root" => {
                self.root = Some(match value {
                    b"virtio" => RootDisk::Virtio,
                    b"ide" => RootDisk::Ide,
                    _ => return None,
                });
            }
            b"file-system" => self.file_systems.push(text()?),
            b"share" => {
                let text = text()?;
                let (from, to) = text.split_once(':')?;
                self.shares.push((from.to_owned(), to.to_owned()));
            }
            b"terminal" => {
                let text = text()?;
                let (rows, columns) = text.split_once('x')?;
                self.terminal = Some((rows.parse().ok()?, columns.parse().ok()?));
            }
            b"environment" => {
                let at = value.iter().position(|&byte| byte == b'=')?;
                let pair = (native(&value[..at]), native(&value[at + 1..]));
                self.environment.push(pair);
            }
            b"built-in" => self.built_in.push(text()?),
            b"out" => self.out = true,
            b"argument" => self.command.push(native(value)),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
