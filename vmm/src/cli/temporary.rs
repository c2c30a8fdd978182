//! Disks whose changes are thrown away.

use std::{env, path::PathBuf};

use clap::Args;

use super::disk::DiskOption;

/// Where QEMU puts temporary images, too.
const DEFAULT: &str = "/var/tmp";

/// Options about disks whose changes are thrown away.
#[derive(Debug, Clone, Default, Args)]
pub struct TemporaryArgs {
    /// Throw away in the end what is written to the disks: all have snapshot=on that do not say
    /// snapshot=off.
    #[arg(long)]
    snapshot: bool,
    /// Directory whose file system takes what is written to such disks; no file is seen there
    /// [default: that of $TMPDIR, or /var/tmp].
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

impl TemporaryArgs {
    /// The directory for what is written to `disk`, if that is thrown away.
    pub fn directory_for(&self, disk: &DiskOption) -> Option<PathBuf> {
        disk.snapshot
            .unwrap_or(self.snapshot)
            .then(|| self.directory())
    }

    fn directory(&self) -> PathBuf {
        let given = self.temp_dir.clone();
        let of_environment = || env::var_os("TMPDIR").filter(|name| !name.is_empty());
        given
            .or_else(|| of_environment().map(PathBuf::from))
            .unwrap_or_else(|| DEFAULT.into())
    }
}
