//! Which kernel is booted, and where its modules are.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{TestError, file_error};

/// A kernel to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its file.
    pub path: PathBuf,
    /// As `uname -r` will say it; empty where the file does not say.
    pub version: String,
}

const BOOT: &str = "/boot";
const PREFIX: &str = "vmlinuz-";

impl Kernel {
    /// The one that was given, else the host's own, else the newest one.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn find(given: Option<&Path>) -> Result<Self, TestError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => in_directory(Path::new(BOOT))?,
        };
        let file = File::open(&path).map_err(file_error("open the kernel", &path))?;
        let version = version(&file).unwrap_or_default();
        Ok(Self { path, version })
    }

    /// Where its modules may be: beside it, above it, or where the host has its own.
    pub fn module_directories(&self) -> Vec<PathBuf> {
        let beside = self.path.parent().unwrap_or(Path::new("."));
        let tops = [beside.to_owned(), beside.join(".."), PathBuf::from("/")];
        let within = |top: &PathBuf| top.join("lib/modules").join(&self.version);
        tops.iter().map(within).collect()
    }
}

/// The host's own kernel, else the newest one that can be read.
fn in_directory(boot: &Path) -> Result<PathBuf, TestError> {
    let uname = rustix::system::uname();
    let own = boot.join(format!("{PREFIX}{}", uname.release().to_string_lossy()));
    let Err(error) = File::open(&own) else {
        return Ok(own);
    };
    let kernels = || {
        let entries = fs::read_dir(boot).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    if let Some(path) = newest(kernels().filter(|path| File::open(path).is_ok())) {
        return Ok(path);
    }
    let path = if own.exists() {
        Some(own)
    } else {
        newest(kernels())
    };
    let path = path.ok_or(TestError::NoKernel)?;
    let source = File::open(&path).err().unwrap_or(error);
    Err(TestError::KernelNotReadable { path, source })
}

/// The kernel with the highest version in its name.
fn newest(paths: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    paths
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            Some((numbers(name), path))
        })
        .max()
        .map(|(_, path)| path)
}

/// The numbers in a version: 6.10 is newer than 6.9.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// What a bzImage says of its version (`Documentation/arch/x86/boot.rst`, kernel_version).
fn version(file: &File) -> Option<String> {
    const MAGIC: (u64, &[u8; 4]) = (0x202, b"HdrS");
    const POINTER: u64 = 0x20e;
    const BASE: u64 = 0x200;
    const LONGEST: usize = 256;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, MAGIC.0).ok()?;
    let mut pointer = [0; 2];
    file.read_exact_at(&mut pointer, POINTER).ok()?;
    let pointer = u16::from_le_bytes(pointer);
    if magic != *MAGIC.1 || pointer == 0 {
        return None;
    }
    let mut text = [0; LONGEST];
    let count = file.read_at(&mut text, BASE + u64::from(pointer)).ok()?;
    let text = text[..count]
        .split(|&byte| byte == 0 || byte == b' ')
        .next()?;
    // It becomes part of a path.
    let is_name = |&byte: &u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(&byte);
    let text = std::str::from_utf8(text).ok()?;
    let sane = !text.is_empty() && text.as_bytes().iter().all(is_name) && !text.starts_with('.');
    sane.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
