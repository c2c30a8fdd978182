//! On a real ring; where the host has none there is nothing to see, and a line says so.

use std::{io::Write, os::unix::fs::FileExt};

use super::*;
use crate::Executor;

fn executor() -> Option<Rc<Executor>> {
    let exec = Executor::new().unwrap();
    if exec.ring().is_none() {
        eprintln!("SKIPPED: this host has no io_uring");
        return None;
    }
    Some(exec)
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

fn answer(ended: Ended) -> io::Result<usize> {
    match ended {
        Ended::Answered(result) => result,
        Ended::NotStarted => panic!("the ring is not broken"),
    }
}

#[test]
fn more_calls_than_the_kernel_takes_at_a_time_all_end() {
    let Some(exec) = executor() else { return };
    let ring = exec.ring().unwrap();
    let count = to_count(UNDER_WAY) * 3;
    let bytes: Vec<u8> = (0..count).map(|n| (n % 251) as u8).collect();
    let file = file(&[]);
    let calls: Vec<_> = (bytes.iter().enumerate())
        .map(|(n, &byte)| {
            let data = SgList::from_vec(vec![byte]);
            ring.start(Call::Write(file.clone(), n as u64, data))
        })
        .collect();
    exec.block_on(async move {
        for call in calls {
            assert_eq!(answer(call.await).unwrap(), 1);
        }
        let read = SgList::zeroed(count);
        let whole = ring.start(Call::Read(file.clone(), 0, read.clone()));
        assert_eq!(answer(whole.await).unwrap(), count);
        assert!(read.to_vec() == bytes);
        answer(ring.start(Call::SyncData(file)).await).unwrap();
    });
}

#[test]
fn a_read_is_short_at_the_end_of_the_file_and_errors_are_the_host_s() {
    let Some(exec) = executor() else { return };
    let ring = exec.ring().unwrap();
    exec.block_on(async move {
        let data = SgList::zeroed(10);
        let short = ring.start(Call::Read(file(b"abc"), 1, data.clone()));
        assert_eq!(answer(short.await).unwrap(), 2);
        assert_eq!(&data.to_vec()[..3], b"bc\0");
        let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
        let error = answer(ring.start(Call::Write(full, 0, data)).await).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    });
}

/// The memory and the file belong to the ring until the kernel has done with them.
#[test]
fn a_call_that_nobody_waits_for_still_runs_and_leaves_nothing_behind() {
    let Some(exec) = executor() else { return };
    let ring = exec.ring().unwrap();
    let file = file(&[0; 4]);
    let data = SgList::from_vec(b"kept".to_vec());
    drop(ring.start(Call::Write(file.clone(), 0, data)));
    let inner = ring.clone();
    let other = file.clone();
    exec.block_on(async move {
        while Arc::strong_count(&other) > 2 {
            let one = ring.start(Call::Read(other.clone(), 0, SgList::zeroed(1)));
            answer(one.await).unwrap();
        }
    });
    let mut bytes = [0; 4];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
    assert_eq!(Arc::strong_count(&file), 1);
    let state = inner.state.borrow();
    assert!(state.entries.iter().all(Option::is_none) && state.under_way == 0);
}

/// A read of an empty pipe does not end before somebody writes; the ring waits for it.
#[test]
fn a_ring_that_goes_waits_for_the_kernel() {
    let Some(exec) = executor() else { return };
    let ring = exec.ring().unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let reader = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
    let data = SgList::zeroed(5);
    drop(ring.start(Call::Read(reader, 0, data.clone())));
    exec.poll();
    drop(ring);
    let late = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        writer.write_all(b"there").unwrap();
    });
    drop(exec);
    assert_eq!(data.to_vec(), b"there");
    late.join().unwrap();
}

/// As under a seccomp filter that comes late: what the kernel has not seen is returned, and the
/// descriptor has no further use.
#[test]
fn a_ring_that_breaks_returns_what_the_kernel_has_not_seen() {
    let Some(exec) = executor() else { return };
    let ring = exec.ring().unwrap();
    let file = file(&[7; 4]);
    let first = SgList::zeroed(4);
    let before = ring.start(Call::Read(file.clone(), 0, first.clone()));
    exec.poll();
    forbid_io_uring();
    let after = ring.start(Call::Read(file.clone(), 0, SgList::zeroed(4)));
    exec.block_on(async move {
        assert_eq!(answer(before.await).unwrap(), 4);
        assert_eq!(first.to_vec(), [7; 4]);
        assert!(matches!(after.await, Ended::NotStarted));
        let late = ring.start(Call::SyncData(file));
        assert!(matches!(late.await, Ended::NotStarted));
    });
    // A thread that may not have one gets none.
    assert!(Executor::new().unwrap().ring().is_none());
}

/// The calling thread's calls of io_uring fail with EPERM from now on.
fn forbid_io_uring() {
    let load = |offset| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    };
    let skip_unless = |call: i64, jf| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf,
        k: call as u32,
    };
    let answer = |k| libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let refuse = answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let mut filter = [
        load(0),
        skip_unless(libc::SYS_io_uring_setup, 1),
        refuse,
        skip_unless(libc::SYS_io_uring_enter, 1),
        refuse,
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes no memory of this process.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    // SAFETY: the kernel reads the program, which lives until the call has returned.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
