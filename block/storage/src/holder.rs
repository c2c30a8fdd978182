//! Which process holds a lock on a file, as far as the system knows.
//!
//! `/proc/locks` names no process for locks of an open file description, but `/proc/PID/fdinfo`
//! lists them with the descriptor that holds them.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
};

use crate::error::Holder;

/// Descriptors looked at, at most: a message is not worth more.
const MAX_LOOKS: usize = 50_000;

/// Finds a process that has `file` open, on another descriptor, with a lock on `byte`. Processes
/// that may not be looked into are passed over.
pub(super) fn find(file: &File, byte: u64) -> Option<Holder> {
    let mut looks = 0;
    let me = std::process::id();
    // This one first: a child that it is about to start has the same files open for a moment.
    let others = fs::read_dir("/proc").ok()?.flatten();
    let others = others.filter_map(|process| process.file_name().to_str()?.parse().ok());
    for pid in std::iter::once(me).chain(others) {
        if looks > MAX_LOOKS {
            return None;
        }
        if holds(pid, file, byte, &mut looks) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            return Some(Holder { pid, name });
        }
    }
    None
}

/// Whether one of a process's descriptors holds a lock on the byte.
fn holds(pid: u32, file: &File, byte: u64, looks: &mut usize) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let asks = (pid == std::process::id()).then(|| file.as_raw_fd().to_string());
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let wanted = file.metadata().map(identity).ok();
    descriptors.flatten().any(|descriptor| {
        *looks += 1;
        let number = descriptor.file_name();
        let same = fs::metadata(descriptor.path()).map(identity).ok() == wanted;
        same && asks.as_deref().is_none_or(|asks| number != *asks)
            && locks(
                &Path::new("/proc")
                    .join(pid.to_string())
                    .join("fdinfo")
                    .join(number),
                byte,
            )
    })
}

/// Whether the `lock:` lines of a descriptor cover the byte. Their last two fields are the first
/// and the last byte of a lock.
fn locks(fdinfo: &Path, byte: u64) -> bool {
    let text = fs::read_to_string(fdinfo).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("lock:"))
        .any(|line| {
            let mut fields = line.split_whitespace().rev();
            let last = fields.next().map(|last| last.parse().unwrap_or(u64::MAX));
            let first = fields.next().and_then(|first| first.parse().ok());
            matches!((first, last), (Some(first), Some(last)) if (first..=last).contains(&byte))
        })
}
