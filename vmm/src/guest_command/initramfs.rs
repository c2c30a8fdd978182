//! The initramfs of a guest that runs a command: made for it, in memory.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use cpio::newc::{Builder, trailer};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{TestError, file_error, unpacked};
use crate::cli::test::Share;

/// What runs first in the guest; empty where it could not be built.
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/strata-init"));

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// Where the host may have a static busybox.
const BUSYBOX: &str = "/bin/busybox";

/// An initramfs that is being written.
pub struct Initramfs {
    archive: BufWriter<File>,
    /// Words and values, each ended by a NUL byte (`init/src/plan.rs`).
    plan: Vec<u8>,
    inode: u32,
    modules: usize,
    shares: usize,
}

/// One that is whole.
pub struct Finished(File);

impl Finished {
    /// A name by which it can be opened as long as this is there.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// An archive in memory fails only for want of that.
fn out_of_memory(source: io::Error) -> TestError {
    file_error("write", "the initramfs")(source)
}

impl Initramfs {
    /// One with the guest's first program, and busybox if the host has a static one.
    ///
    /// # Errors
    /// The host has no memory, or this program nothing to run in a guest.
    pub fn new() -> Result<Self, TestError> {
        if INIT.is_empty() {
            return Err(TestError::NoInit);
        }
        let memory = memfd_create("initramfs", MemfdFlags::CLOEXEC);
        let memory = memory.map_err(|error| out_of_memory(error.into()))?;
        let mut new = Self {
            archive: BufWriter::new(memory.into()),
            plan: Vec::new(),
            inode: 0,
            modules: 0,
            shares: 0,
        };
        for directory in [
            "bin",
            "dev",
            "proc",
            "sys",
            "tmp",
            "run",
            "root",
            "strata",
            "strata/share",
            "strata/modules",
        ] {
            new.add(directory.as_ref(), DIRECTORY, b"")?;
        }
        new.add("init".as_ref(), PROGRAM, INIT)?;
        new.add_busybox()?;
        Ok(new)
    }

    fn add_busybox(&mut self) -> Result<(), TestError> {
        let Some(program) = static_program(Path::new(BUSYBOX)) else {
            return Ok(());
        };
        self.add("bin/busybox".as_ref(), PROGRAM, &program)?;
        let listed = Command::new(BUSYBOX).arg("--list").output();
        let names = listed.map(|output| output.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&names)
            .lines()
            .filter(|name| *name != "busybox")
        {
            self.add(&Path::new("bin").join(name), LINK, b"busybox")?;
        }
        Ok(())
    }

    fn add(&mut self, name: &Path, mode: u32, content: &[u8]) -> Result<(), TestError> {
        let len = u32::try_from(content.len())
            .map_err(|_| out_of_memory(io::ErrorKind::FileTooLarge.into()))?;
        self.inode += 1;
        let text = name.to_str().ok_or_else(|| {
            let why = io::Error::other("its name is not UTF-8, which the archive's writer needs");
            file_error("pack", name)(why)
        })?;
        let mut entry = Builder::new(text)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .write(&mut self.archive, len);
        entry.write_all(content).map_err(out_of_memory)?;
        entry.finish().map_err(out_of_memory)?;
        Ok(())
    }

    /// Adds a word to the plan.
    pub fn plan(&mut self, word: &str, value: impl AsRef<OsStr>) {
        self.plan.extend(word.as_bytes());
        self.plan.push(0);
        self.plan.extend(value.as_ref().as_bytes());
        self.plan.push(0);
    }

    /// Sets a variable of the command's environment.
    pub fn plan_environment(&mut self, name: &str, value: &OsStr) {
        let mut pair = OsString::from(name);
        pair.push("=");
        pair.push(value);
        self.plan("environment", pair);
    }

    /// The command, and its arguments.
    pub fn plan_command(&mut self, command: &[OsString]) {
        for word in command {
            self.plan("argument", word);
        }
    }

    /// Adds modules, which are loaded in this order.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn add_modules(&mut self, files: &[PathBuf]) -> Result<(), TestError> {
        for file in files {
            let content = unpacked::read(file).map_err(file_error("read the module", file))?;
            let name = unpacked::name(file);
            let place = Path::new("strata/modules").join(format!("{:03}", self.modules));
            self.add(&place, DIRECTORY, b"")?;
            self.add(&place.join(name), PLAIN, &content)?;
            self.plan("module", Path::new("/").join(place).join(name));
            self.modules += 1;
        }
        Ok(())
    }

    /// Adds a copy of a directory: directories, plain files and symbolic links.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub fn add_share(&mut self, share: &Share) -> Result<(), TestError> {
        let place = PathBuf::from(format!("strata/share/{}", self.shares));
        self.shares += 1;
        self.add_directory(&share.from, &place)?;
        self.plan("share", format!("/{}:{}", place.display(), share.to));
        Ok(())
    }

    fn add_directory(&mut self, from: &Path, to: &Path) -> Result<(), TestError> {
        let entries = fs::read_dir(from).map_err(file_error("read the directory", from))?;
        self.add(to, DIRECTORY, b"")?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let (from, to) = (from.join(&name), to.join(&name));
            let metadata = fs::symlink_metadata(&from).map_err(file_error("read", &from))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                self.add_directory(&from, &to)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&from).map_err(file_error("read", &from))?;
                self.add(&to, LINK, target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                let content = fs::read(&from).map_err(file_error("read", &from))?;
                self.add(&to, metadata.mode(), &content)?;
            } else if !kind.is_socket() {
                tracing::warn!(file = %from.display(), "is no plain file, and is not shared");
            }
        }
        Ok(())
    }

    /// Ends it, with the plan.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn finish(mut self) -> Result<Finished, TestError> {
        let plan = std::mem::take(&mut self.plan);
        self.add("strata/plan".as_ref(), PLAIN, &plan)?;
        trailer(&mut self.archive).map_err(out_of_memory)?;
        let file = self.archive.into_inner();
        let file = file.map_err(|error| out_of_memory(error.into_error()))?;
        Ok(Finished(file))
    }
}

/// A program's bytes, if it needs no other files.
fn static_program(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let headers = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let count = u16::from_le_bytes(bytes.get(56..58)?.try_into().ok()?);
    // PT_INTERP names the dynamic linker (ELF-64, program headers of 56 bytes).
    let has_linker = (0..usize::from(count)).any(|index| {
        let at = headers.saturating_add(index * 56);
        bytes.get(at..at.saturating_add(4)) == Some(&[3, 0, 0, 0])
    });
    (bytes.starts_with(b"\x7fELF\x02") && !has_linker).then_some(bytes)
}
