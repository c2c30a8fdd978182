//! The system calls that std does not have, each behind a safe function.
#![allow(unsafe_code)] // Calls of the C library that std links anyway.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn sync();
    fn syscall(number: c_long, ...) -> c_long;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn setsid() -> c_int;
    fn mkfifo(path: *const c_char, mode: u32) -> c_int;
    fn tcgetattr(fd: c_int, termios: *mut Termios) -> c_int;
    fn tcsetattr(fd: c_int, when: c_int, termios: *const Termios) -> c_int;
    fn cfmakeraw(termios: *mut Termios);
    fn tcdrain(fd: c_int) -> c_int;
}

/// The C library's `struct termios`, with room to spare: only it looks inside.
#[repr(C, align(8))]
struct Termios([u8; 256]);

/// MS_BIND.
pub const BIND: c_ulong = 0x1000;
/// MS_RDONLY.
pub const READ_ONLY: c_ulong = 1;
/// MS_REMOUNT.
pub const REMOUNT: c_ulong = 32;

const SYS_FINIT_MODULE: c_long = 313;
const RB_POWER_OFF: c_int = 0x4321_fedc;
const TIOCSCTTY: c_ulong = 0x540e;
const TIOCGPTN: c_ulong = 0x8004_5430;
const TIOCSPTLCK: c_ulong = 0x4004_5431;
const TIOCSWINSZ: c_ulong = 0x5414;
const TCSANOW: c_int = 0;

fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// mount(2).
pub fn mount_at(source: &str, target: &str, kind: &str, flags: c_ulong) -> io::Result<()> {
    let (source, target, kind) = (text(source)?, text(target)?, text(kind)?);
    // SAFETY: three strings that live until the call returns, and no data.
    let result = unsafe {
        mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            ptr::null(),
        )
    };
    check(result.into())
}

/// finit_module(2), without parameters.
pub fn load_module(file: &File) -> io::Result<()> {
    let flags: c_int = 0;
    let parameters: &CStr = c"";
    // SAFETY: a descriptor that is open and a string that lives until the call returns.
    let result = unsafe {
        syscall(
            SYS_FINIT_MODULE,
            file.as_raw_fd(),
            parameters.as_ptr(),
            flags,
        )
    };
    check(result)
}

/// Writes what is cached to the disks, and powers the machine off. Returns only if that failed.
pub fn power_off() -> io::Error {
    // SAFETY: no memory is concerned.
    unsafe { sync() };
    // SAFETY: the same.
    unsafe { reboot(RB_POWER_OFF) };
    io::Error::last_os_error()
}

/// Makes a named pipe.
pub fn make_fifo(path: &str) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: a string that lives until the call returns.
    check(unsafe { mkfifo(path.as_ptr(), 0o622) }.into())
}

/// Lets every byte through as it is.
pub fn make_raw(terminal: &File) -> io::Result<()> {
    let mut termios = Termios([0; 256]);
    let fd = terminal.as_raw_fd();
    // SAFETY: the C library fills in its structure, which is shorter than ours.
    check(unsafe { tcgetattr(fd, &raw mut termios) }.into())?;
    // SAFETY: the structure has been filled in.
    unsafe { cfmakeraw(&raw mut termios) };
    // SAFETY: the same.
    check(unsafe { tcsetattr(fd, TCSANOW, &raw const termios) }.into())
}

/// Waits until all that has been written has been sent.
pub fn drain(terminal: &File) {
    // SAFETY: a descriptor that is open. An error leaves nothing to be done.
    unsafe { tcdrain(terminal.as_raw_fd()) };
}

/// Unlocks the other end of a pseudo-terminal, whose number is returned.
pub fn unlock_terminal(master: &File) -> io::Result<u32> {
    let (unlock, mut number): (c_int, u32) = (0, 0);
    let fd = master.as_raw_fd();
    // SAFETY: the kernel reads one int, which lives until the call returns.
    check(unsafe { ioctl(fd, TIOCSPTLCK, &raw const unlock) }.into())?;
    // SAFETY: the kernel writes one unsigned int, which lives until the call returns.
    check(unsafe { ioctl(fd, TIOCGPTN, &raw mut number) }.into())?;
    Ok(number)
}

/// Tells a pseudo-terminal how large it is.
pub fn set_size(master: &File, rows: u16, columns: u16) -> io::Result<()> {
    let size = [rows, columns, 0, 0];
    // SAFETY: the kernel reads four unsigned shorts, which live until the call returns.
    check(unsafe { ioctl(master.as_raw_fd(), TIOCSWINSZ, size.as_ptr()) }.into())
}

/// Has the child begin a session of its own, with `terminal`, a descriptor that it keeps, as its
/// terminal if there is one.
pub fn new_session(command: &mut Command, terminal: Option<RawFd>) {
    let begin = move || {
        // SAFETY: no memory is concerned.
        check(unsafe { setsid() }.into())?;
        match terminal {
            // SAFETY: a descriptor that the child has, and a number.
            Some(fd) => check(unsafe { ioctl(fd, TIOCSCTTY, 0 as c_int) }.into()),
            None => Ok(()),
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(begin) };
}

/// Has the child do something before it becomes another program: only system calls, and no
/// allocation but for errors.
pub fn before_exec(
    command: &mut Command,
    act: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the caller's closure makes only system calls. This process's other threads may hold
    // the allocator's lock when it forks, but glibc's fork leaves the allocator usable in the
    // child.
    unsafe { command.pre_exec(act) };
}
