//! Locks on image files, as QEMU takes them (`block/file-posix.c`), so that two programs that would
//! harm each other's images cannot meet.
//!
//! Single bytes of the file stand for permissions: byte 100 + bit is locked by a process that uses
//! the permission, byte 200 + bit by one that does not let others use it. All of them are shared
//! locks of the open file description (`F_OFD_SETLK`), so they end with the file that holds them,
//! however the process ends. The first process finds no others; a later one takes its own locks,
//! then asks whether somebody else holds the opposite ones, and gives up if so.
#![allow(unsafe_code)] // fcntl takes the address of its argument.

use std::{fs::File, io, os::fd::AsRawFd};

/// A permission on an image's bytes; its value is its bit in the bytes to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

impl Permission {
    const ALL: [Self; 3] = [Self::ConsistentRead, Self::Write, Self::Resize];

    /// What QEMU's messages call the lock of those who use it, and of those who let nobody else.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::ConsistentRead => ["\"consistent read\"", "shared \"consistent read\""],
            Self::Write => ["\"write\"", "shared \"write\""],
            Self::Resize => ["\"resize\"", "shared \"resize\""],
        }
    }

    /// The byte that its users lock.
    fn used(self) -> u64 {
        100 + self as u64
    }

    /// The byte that those lock who let nobody else use it.
    fn refused(self) -> u64 {
        200 + self as u64
    }
}

/// What an image file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing that others could disturb, or could be disturbed by.
    None,
    /// Reading, while nobody writes: a backing file, or a read-only disk.
    Read,
    /// Reading and writing, while nobody else writes.
    Write,
}

impl Access {
    fn uses(self, permission: Permission) -> bool {
        match self {
            Self::None => false,
            Self::Read => permission == Permission::ConsistentRead,
            Self::Write => true,
        }
    }

    fn refuses(self, permission: Permission) -> bool {
        self != Self::None && permission != Permission::ConsistentRead
    }

    /// Whether a holder of this access locks the byte.
    fn locks(self, byte: u64) -> bool {
        Permission::ALL.into_iter().any(|permission| {
            self.uses(permission) && permission.used() == byte
                || self.refuses(permission) && permission.refused() == byte
        })
    }
}

/// Why a file could not be locked.
#[derive(Debug)]
pub(super) enum LockError {
    /// Somebody holds a lock against it.
    Held {
        /// The lock, in QEMU's words.
        lock: &'static str,
        /// The byte that the other one has locked.
        byte: u64,
    },
    /// The file system or the kernel has no such locks.
    Unsupported(io::Error),
}

/// Changes the locks that `file` holds from those of `from` to those of `to`. If that fails they
/// are as they were.
pub(super) fn change(file: &File, from: Access, to: Access) -> Result<(), LockError> {
    let result = take(file, from, to).and_then(|()| check(file, to));
    let (keep, drop) = if result.is_ok() {
        (to, from)
    } else {
        (from, to)
    };
    release(file, keep, drop);
    result
}

/// Has `new`, the same file opened again without a lock, hold the locks of `access` that `old`
/// holds. There is no moment without them. If that fails, `old` still has them.
pub(super) fn hand_over(old: &File, new: &File, access: Access) -> Result<(), LockError> {
    // `old` has asked everyone.
    let result = take(new, Access::None, access);
    release(if result.is_ok() { old } else { new }, Access::None, access);
    result
}

/// Takes the locks of `to` that `from` does not have. All are shared ones: others may hold them
/// too, unless they have locked the whole file in some way of their own.
fn take(file: &File, from: Access, to: Access) -> Result<(), LockError> {
    for permission in Permission::ALL {
        for (byte, lock) in [permission.used(), permission.refused()]
            .into_iter()
            .zip(permission.names())
            .filter(|&(byte, _)| to.locks(byte) && !from.locks(byte))
        {
            set(file, byte, libc::F_RDLCK).map_err(|error| match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => LockError::Held { lock, byte },
                _ => LockError::Unsupported(error),
            })?;
        }
    }
    Ok(())
}

/// Asks whether anybody stands against `access`.
fn check(file: &File, access: Access) -> Result<(), LockError> {
    for permission in Permission::ALL {
        let asked = [
            (access.uses(permission), permission.refused()),
            (access.refuses(permission), permission.used()),
        ];
        for ((ask, byte), lock) in asked.into_iter().zip(permission.names()) {
            if ask && is_locked(file, byte).map_err(LockError::Unsupported)? {
                return Err(LockError::Held { lock, byte });
            }
        }
    }
    Ok(())
}

/// Gives up the locks of `drop` that `keep` does not have.
fn release(file: &File, keep: Access, drop: Access) {
    for byte in bytes().filter(|&byte| drop.locks(byte) && !keep.locks(byte)) {
        // An unlock cannot fail but where there are no locks.
        let _ = set(file, byte, libc::F_UNLCK);
    }
}

fn bytes() -> impl Iterator<Item = u64> {
    Permission::ALL
        .into_iter()
        .flat_map(|permission| [permission.used(), permission.refused()])
}

fn set(file: &File, byte: u64, kind: libc::c_int) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut flock(byte, kind))
}

/// Whether any other open file description holds a lock on the byte.
fn is_locked(file: &File, byte: u64) -> io::Result<bool> {
    // An exclusive lock is what any other one stands against.
    let mut lock = flock(byte, libc::F_WRLCK);
    call(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// One byte of a file, as fcntl wants it.
fn flock(byte: u64, kind: libc::c_int) -> libc::flock {
    let short = |constant| libc::c_short::try_from(constant).expect("fcntl's constants are small");
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: byte as libc::off_t,
        l_len: 1,
        // The kernel asks for 0: the owner is the file, not a process.
        l_pid: 0,
    }
}

fn call(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed; for both commands the kernel
    // reads and writes one `flock`, which `lock` is.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
