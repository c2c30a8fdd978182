//! Tests of the simulation itself: what it may do to its users.

use std::{collections::BTreeSet, path::Path, rc::Rc};

use strata_exec::Executor;

use super::{Faults, SimDirectory, SimFile};
use crate::{Storage, error::IoError};

fn file_of(sectors: usize, seed: u64) -> (Rc<Executor>, Rc<SimFile>, Storage) {
    let sim = Rc::new(SimFile::new("sim", vec![0; sectors * 512], seed));
    (Executor::new().unwrap(), sim.clone(), Storage::Sim(sim))
}

#[test]
fn a_crash_keeps_what_was_flushed_and_tears_the_rest() {
    let exec = Executor::seeded(3).unwrap();
    let sim = Rc::new(SimFile::new("sim", vec![0; 2048], 3));
    let storage = Storage::Sim(sim.clone());
    exec.block_on(async move {
        storage.write_vec(0, vec![1; 1024]).await.unwrap();
        storage.flush().await.unwrap();
        storage.write_vec(512, vec![2; 1536]).await.unwrap();
    });
    let crashes: Vec<_> = (0..50).map(|seed| sim.crash(seed)).collect();
    for bytes in &crashes {
        assert_eq!(bytes[..512], [1; 512]);
        assert!(
            bytes
                .chunks(512)
                .all(|sector| sector.iter().all(|&byte| byte == sector[0]))
        );
    }
    assert!(
        crashes
            .iter()
            .any(|bytes| bytes[512] == 1 && bytes[1024] == 2)
    );
    assert!(
        crashes
            .iter()
            .any(|bytes| bytes[512] == 2 && bytes[1536] == 0)
    );
}

/// What `faults` do to a write of ones to four sectors of zeros, with one seed after the other.
fn torn_by(faults: Faults) -> Vec<Vec<u8>> {
    let torn = (0..50).map(|seed| {
        let (exec, sim, storage) = file_of(4, seed);
        sim.set_faults(faults);
        let result = exec.block_on(async move { storage.write_vec(0, vec![1; 2048]).await });
        assert!(matches!(result, Err(IoError::Host { .. })), "{result:?}");
        let bytes = sim.bytes();
        bytes.iter().step_by(512).copied().collect()
    });
    torn.collect()
}

#[test]
fn a_write_that_fails_is_short_or_torn() {
    let found = torn_by(Faults {
        write: 1000,
        ..Faults::default()
    });
    for wanted in [[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]] {
        assert!(found.iter().any(|sectors| *sectors == wanted), "{wanted:?}");
    }
}

/// Writes a sector, and lets it be lost as `faults` say.
async fn lose(sim: &SimFile, storage: &Storage, faults: Faults) {
    sim.set_faults(faults);
    storage.write_vec(0, vec![1; 512]).await.unwrap();
    if faults.flush > 0 {
        storage.flush().await.unwrap_err();
    }
    sim.set_faults(Faults::default());
}

const BY_A_FLUSH: Faults = Faults {
    read: 0,
    write: 0,
    flush: 1000,
    write_back: 0,
    other: 0,
};

const BY_WRITE_BACK: Faults = Faults {
    flush: 0,
    write_back: 1000,
    ..BY_A_FLUSH
};

#[test]
fn what_a_failed_flush_has_lost_no_later_one_brings_back() {
    let lost = (0..50).filter(|&seed| {
        let (exec, sim, storage) = file_of(1, seed);
        let inner = sim.clone();
        exec.block_on(async move {
            lose(&inner, &storage, BY_A_FLUSH).await;
            // For somebody else, who knows of nothing.
            let other = Storage::Sim(Rc::new(inner.open_again()));
            other.flush().await.unwrap();
        });
        assert_eq!(sim.losses(), 1);
        assert_eq!(sim.bytes(), [1; 512], "readers see it all the same");
        sim.durable_bytes() == [0; 512]
    });
    assert!((10..40).contains(&lost.count()));
}

#[test]
fn every_open_file_is_told_of_a_loss_and_never_flushed_again() {
    for faults in [BY_A_FLUSH, BY_WRITE_BACK] {
        let (exec, sim, storage) = file_of(1, 1);
        exec.block_on(async move {
            let other = Storage::Sim(Rc::new(sim.open_again()));
            lose(&sim, &storage, faults).await;
            for file in [&storage, &other, &storage, &other] {
                let error = file.flush().await.unwrap_err();
                assert!(matches!(error, IoError::Lost { .. }), "{error}");
            }
            let later = Storage::Sim(Rc::new(sim.open_again()));
            later.flush().await.unwrap();
        });
    }
}

#[test]
fn a_loss_that_nobody_knows_of_is_told_to_who_opens_the_file_next() {
    let (exec, sim, storage) = file_of(1, 1);
    exec.block_on(async move {
        lose(&sim, &storage, BY_WRITE_BACK).await;
        let later = Storage::Sim(Rc::new(sim.open_again()));
        later.flush().await.unwrap_err();
    });
}

#[test]
fn losses_have_all_reasons_that_the_host_has() {
    let reasons = (0..50).map(|seed| {
        let (exec, sim, storage) = file_of(1, seed);
        let error = exec.block_on(async move {
            lose(&sim, &storage, BY_WRITE_BACK).await;
            storage.flush().await.unwrap_err()
        });
        let IoError::Lost { source, .. } = error else {
            panic!("{error}");
        };
        source.raw_os_error().unwrap()
    });
    let found: BTreeSet<_> = reasons.collect();
    assert_eq!(found, [libc::EIO, libc::ENOSPC, libc::EDQUOT].into());
}

#[test]
fn a_flush_may_find_no_room_and_loses_as_any_that_fails() {
    let (exec, sim, storage) = file_of(1, 1);
    let inner = sim.clone();
    exec.block_on(async move {
        inner.fill_up_at_flush(Some(1));
        storage.flush().await.unwrap();
        for _ in 0..2 {
            let error = storage.flush().await.unwrap_err();
            assert!(matches!(error, IoError::Lost { .. }), "{error}");
            assert!(error.to_string().contains("No space left"), "{error}");
        }
    });
    assert_eq!(sim.losses(), 1);
}

#[test]
fn a_full_disk_takes_what_fits_and_the_rest_later() {
    let (exec, sim, storage) = file_of(0, 1);
    let inner = sim.clone();
    exec.block_on(async move {
        inner.set_room(Some(2));
        let error = storage.write_vec(0, vec![1; 3 * 4096]).await.unwrap_err();
        assert!(matches!(error, IoError::NoSpace { .. }), "{error}");
        // In place there is no need for room.
        storage.write_vec(4096, vec![2; 4096]).await.unwrap();
        storage.write_vec(9000, vec![3; 1]).await.unwrap_err();
        inner.set_room(None);
        storage.write_vec(8192, vec![3; 4096]).await.unwrap();
    });
    let bytes: Vec<_> = sim.bytes().into_iter().step_by(4096).collect();
    assert_eq!(bytes, [1, 2, 3]);
}

#[test]
fn holes_are_holes() {
    let (exec, sim, storage) = file_of(0, 1);
    exec.block_on(async move {
        storage.write_vec(0, vec![1; 4 * 4096]).await.unwrap();
        storage.punch_hole(4096, 2 * 4096).await.unwrap();
        storage.punch_hole(4 * 4096, 4096).await.unwrap();
        assert_eq!(storage.len(), 4 * 4096, "punching does not grow a file");
        for (offset, len, data) in [(0, 4096, true), (4096, 8192, false), (12288, 4096, true)] {
            let found = storage.extent(offset, 1 << 20).await;
            assert_eq!((found.len, found.data), (len, data), "{offset}");
        }
        storage.set_len(100).await.unwrap();
        storage.set_len(4096).await.unwrap();
    });
    let bytes = sim.bytes();
    assert!(bytes[..100] == [1; 100] && bytes[100..] == [0; 3996]);
}

#[test]
fn a_name_survives_for_certain_once_its_directory_was_synced() {
    let directory = SimDirectory::new(Default::default(), 1);
    let (first, second) = (Path::new("/a"), Path::new("/b"));
    directory.create(first).unwrap();
    directory.create(first).err().expect("it exists");
    directory.sync();
    directory.create(second).unwrap();
    let crashes: Vec<_> = (0..20).map(|seed| directory.after_crash(seed)).collect();
    assert!(crashes.iter().all(|files| files.contains_key(first)));
    let kept = crashes.iter().filter(|files| files.contains_key(second));
    assert!((1..20).contains(&kept.count()));
    assert!(!directory.durable().contains_key(second));
}
