//! The files that a run leaves for programs and people.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use strata_storage::split_options;

use super::keys::{self, choose};
use crate::core_dump::Addresses;

/// Options about what is written of a run.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What is written of it")]
pub struct ReportArgs {
    /// Write what came of it into a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// Write the same into a file as a JUnit report, as CI servers read it.
    #[arg(long, value_name = "FILE")]
    pub result_junit: Option<PathBuf>,
    /// Write the guest's memory into a file, as an ELF core for crash and gdb, after a panic, a
    /// time-out or a triple fault that ends the run: FILE[,paging=on|off].
    #[arg(long, value_name = "FILE", value_parser = core_parser())]
    pub core: Option<CoreOption>,
}

/// The value of `--core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreOption {
    /// The file.
    pub path: PathBuf,
    /// Where memory is found in it.
    pub addresses: Addresses,
}

impl CoreOption {
    /// A core at `path`; with `paging` memory is found at the kernel's addresses, too.
    pub fn new(path: impl Into<PathBuf>, paging: bool) -> Self {
        let addresses = if paging {
            Addresses::Kernel
        } else {
            Addresses::Physical
        };
        Self {
            path: path.into(),
            addresses,
        }
    }

    /// Removes an older file, so that it is not taken for this run's, and looks whether there can
    /// be a new one.
    ///
    /// # Errors
    /// There cannot; the host's.
    pub fn prepare(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|path| *path != Path::new(""));
        fs::metadata(directory.unwrap_or(Path::new(".")))?;
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_file() => fs::remove_file(&self.path),
            Ok(_) => Err(io::Error::other("not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How clap calls [`parse_core`]: names of files need not be text.
fn core_parser() -> impl TypedValueParser<Value = CoreOption> {
    OsStringValueParser::new().try_map(|text| parse_core(&text))
}

/// Parses the value of `--core`.
///
/// # Errors
/// What is wrong with it.
fn parse_core(text: &OsStr) -> Result<CoreOption, String> {
    let mut parts = split_options(text).into_iter();
    let path = parts.next().unwrap_or_default();
    let mut addresses = Addresses::Physical;
    for part in parts {
        for (key, value) in keys::pairs(&part.to_string_lossy())? {
            if key != "paging" {
                return Err(format!("unknown key '{key}'; known keys: paging"));
            }
            let words = [("on", Addresses::Kernel), ("off", Addresses::Physical)];
            addresses = choose(&key, &value, &words)?;
        }
    }
    if path.is_empty() {
        return Err("a file is missing".into());
    }
    Ok(CoreOption {
        path: path.into(),
        addresses,
    })
}

#[cfg(test)]
mod tests;
