//! Files used past the page cache, byte by byte.

use std::{path::Path, rc::Rc};

use rustix::fs::{OFlags, fcntl_getfl};
use strata_exec::{Executor, Queue, random, sync::promise};

use super::*;
use crate::{Aio, FileOptions, FileStorage, Storage, error::IoError, lossy::LossyDevice};

/// Longest file.
const SIZE: u64 = 300_000;

fn open(exec: &Executor, path: &Path, read_only: bool, aio: Aio) -> Storage {
    let options = FileOptions {
        read_only,
        direct: true,
        aio,
        ..FileOptions::default()
    };
    Storage::File(Rc::new(FileStorage::open(exec, path, options).unwrap()))
}

#[test]
fn whatever_is_written_is_read() {
    for aio in [Aio::Threads, Aio::IoUring] {
        check_random_requests(aio);
    }
}

fn check_random_requests(aio: Aio) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, [1; 777]).unwrap();
    let exec = Executor::new().unwrap();
    let executor = exec.clone();
    exec.block_on(async move {
        let file = open(&executor, &path, false, aio);
        let mut seed = 1;
        let mut below = |limit: u64| random::next(&mut seed) % limit;
        let mut model = vec![1; 777];
        for round in 0..400u64 {
            // Sectors, blocks and odd places.
            let unit = [1, 512, 4096][below(3) as usize];
            let offset = below(SIZE / unit) * unit;
            let len = ((1 + below(9 * 4096 / unit)) * unit).min(SIZE - offset) as usize;
            let end = offset as usize + len;
            if below(2) == 0 {
                let mut expected = model.get(offset as usize..).unwrap_or_default().to_vec();
                expected.resize(len, 0);
                assert!(
                    file.read_vec(offset, len).await.unwrap() == expected,
                    "{round}"
                );
                continue;
            }
            let bytes: Vec<u8> = (0..len).map(|_| below(256) as u8).collect();
            file.write_vec(offset, bytes.clone()).await.unwrap();
            model.resize(model.len().max(end), 0);
            model[offset as usize..end].copy_from_slice(&bytes);
            assert_eq!(file.len(), model.len() as u64);
        }
        file.flush().await.unwrap();
        assert!(std::fs::read(&path).unwrap() == model);
        drop(file);
        let file = open(&executor, &path, true, aio);
        assert!(file.read_vec(0, model.len()).await.unwrap() == model);
    });
}

#[test]
fn only_whole_blocks_are_written_so() {
    for (offset, len, expected) in [
        (0, 4096, 0..4096),
        (0, 5000, 0..4096),
        (0, 4095, 0..0),
        (1, 4096, 4095..4095),
        (4000, 9000, 96..8288),
        (512, 100, 100..100),
    ] {
        let whole = whole_blocks(offset, &SgList::zeroed(len));
        assert_eq!(whole, expected, "{offset}+{len}");
    }
}

#[test]
fn the_cache_is_not_used() {
    let file = tempfile::tempfile().unwrap();
    let direct = reopen(&file, false).unwrap();
    assert!(fcntl_getfl(&direct).unwrap().contains(OFlags::DIRECT));
    assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
}

#[test]
fn a_file_system_that_cannot_is_named_so() {
    let file = File::open("/proc/version").unwrap();
    let error = reopen(&file, true).unwrap_err();
    assert!(
        error.to_string().contains("does not support O_DIRECT"),
        "{error}"
    );
}

/// On a device that cannot store all: a write past the page cache fails at once, and what the
/// device has stored before is still there.
#[test]
fn errors_of_devices_reach_the_request_that_met_them() {
    let Some(device) = LossyDevice::new(8, 4..8) else {
        return;
    };
    for aio in [Aio::Threads, Aio::IoUring] {
        let exec = Executor::new().unwrap();
        let file = open(&exec, device.path(), false, aio);
        exec.block_on(async move {
            file.write_vec(0, vec![5; 1 << 20]).await.unwrap();
            let error = file.write_vec(3 << 20, vec![6; 4 << 20]).await.unwrap_err();
            assert!(
                matches!(error, IoError::Host { .. } | IoError::NoSpace { .. }),
                "{error:?}"
            );
            assert!(file.read_vec(0, 1 << 20).await.unwrap() == vec![5; 1 << 20]);
        });
    }
}

#[test]
fn what_is_aligned_goes_as_it_is() {
    let data = SgList::zeroed(8192);
    assert!(is_aligned(4096, &data));
    assert!(!is_aligned(512, &data));
    assert!(!is_aligned(4096, &data.slice(0, 4096 + 512)));
    assert!(!is_aligned(4096, &data.slice(8, 4096)));
    let sectors: Vec<_> = (0..8).map(|n| data.slice(n * 1024, 512)).collect();
    assert!(is_aligned(0, &SgList::concat(&sectors)));
    let odd = [data.slice(0, 100), data.slice(512, 3996)];
    assert!(!is_aligned(0, &SgList::concat(&odd)));
}

/// A part of a block goes through the page cache. Where it meets a write past it that is under way
/// the host finds its page cache wrong, and calls that a write that it has lost.
#[test]
fn parts_of_blocks_do_not_meet_whole_ones() {
    for aio in [Aio::Threads, Aio::IoUring] {
        check_parts_beside_whole_blocks(aio);
    }
}

fn check_parts_beside_whole_blocks(aio: Aio) {
    const REGION: u64 = 64 << 10;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, vec![0; to_usize(REGION)]).unwrap();
    let exec = Executor::new().unwrap();
    let file = open(&exec, &path, false, aio);
    let tasks: Vec<_> = (1..9)
        .map(|mut seed| {
            let (file, (done, ended)) = (file.clone(), promise());
            exec.spawn(Queue::Guest, async move {
                let mut below = |limit: u64| random::next(&mut seed) % limit;
                for _ in 0..200 {
                    let unit = [512, 4096][to_usize(below(2))];
                    let offset = below(REGION / unit) * unit;
                    let len = ((1 + below(4)) * unit).min(REGION - offset);
                    let bytes = vec![below(256) as u8; to_usize(len)];
                    file.write_vec(offset, bytes).await.unwrap();
                }
                done(());
            });
            ended
        })
        .collect();
    let found = exec.block_on(async move {
        for ended in tasks {
            file.flush().await.unwrap();
            ended.await;
        }
        file.flush().await.unwrap();
        file.read_vec(0, to_usize(REGION)).await.unwrap()
    });
    // The page cache has nothing old.
    assert!(std::fs::read(&path).unwrap() == found);
}
