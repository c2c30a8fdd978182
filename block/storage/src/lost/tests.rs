//! On devices that really lose what is written to them.

use std::{path::Path, rc::Rc};

use strata_exec::{Executor, Queue, sync::promise};

use crate::{
    Aio, FileOptions, FileStorage, Storage,
    error::{IoError, IoResult},
    lossy::LossyDevice,
};

/// More than the device can store.
const MUCH: usize = 6 << 20;

/// Runs it for each way to carry out calls, on a device of its own, where there can be one.
fn with_each(test: impl Fn(LossyDevice, Rc<Executor>, FileOptions)) {
    for aio in [Aio::Threads, Aio::IoUring] {
        let Some(device) = LossyDevice::new(8, 1..8) else {
            return;
        };
        let options = FileOptions {
            aio,
            ..FileOptions::default()
        };
        test(device, Executor::new().unwrap(), options);
    }
}

fn open(exec: &Rc<Executor>, path: &Path, options: FileOptions) -> Storage {
    Storage::File(Rc::new(FileStorage::open(exec, path, options).unwrap()))
}

fn assert_lost(result: IoResult<()>) {
    assert!(matches!(result, Err(IoError::Lost { .. })), "{result:?}");
}

#[test]
fn a_failed_flush_is_the_last_one_until_the_file_is_opened_again() {
    with_each(|device, exec, options| {
        let (inner, path) = (exec.clone(), device.path().to_owned());
        exec.block_on(async move {
            let file = open(&inner, &path, options);
            file.write_vec(0, vec![1; 4096]).await.unwrap();
            file.flush().await.unwrap();
            file.write_vec(0, vec![1; MUCH]).await.unwrap();
            let flushed = file.flush().await;
            assert_lost(flushed);
            // There is room now, but what was lost stays lost.
            device.mend();
            for _ in 0..2 {
                assert_lost(file.clone().flush().await);
            }
            drop(file);
            let file = open(&inner, &path, options);
            file.write_vec(0, vec![1; MUCH]).await.unwrap();
            file.flush().await.unwrap();
        });
    });
}

/// The call that paces jobs takes the error, which belongs to the next flush.
#[test]
fn a_loss_that_shows_when_a_job_is_paced_is_told_to_whoever_flushes() {
    with_each(|device, exec, options| {
        let (inner, path) = (exec.clone(), device.path().to_owned());
        exec.block_on(async move {
            let file = open(&inner, &path, options);
            file.write_vec(0, vec![1; MUCH]).await.unwrap();
            // One starts it, the next one waits for it, and would have the error for itself.
            for _ in 0..3 {
                file.write_back().await;
            }
            assert_lost(file.flush().await);
            assert_lost(file.flush().await);
        });
    });
}

/// Both at once: neither the pace nor the flush may be the one that knows alone.
#[test]
fn a_loss_that_shows_while_a_flush_is_under_way_makes_it_fail() {
    with_each(|device, exec, options| {
        let (inner, path) = (exec.clone(), device.path().to_owned());
        for _ in 0..20 {
            let (inner, path) = (inner.clone(), path.clone());
            exec.block_on(async move {
                let file = open(&inner, &path, options);
                file.write_vec(0, vec![1; MUCH]).await.unwrap();
                file.write_back().await;
                let (paced, (done, ended)) = (file.clone(), promise());
                inner.spawn(Queue::Guest, async move {
                    paced.write_back().await;
                    drop(paced);
                    done(());
                });
                assert_lost(file.flush().await);
                ended.await;
            });
        }
    });
}

/// `cache=unsafe` forgoes what a crash of the host takes, not what the host has lost by itself.
#[test]
fn what_is_never_flushed_is_told_of_the_losses_that_the_host_has_met() {
    with_each(|device, exec, options| {
        let (inner, path) = (exec.clone(), device.path().to_owned());
        exec.block_on(async move {
            let options = FileOptions {
                no_flush: true,
                ..options
            };
            let file = open(&inner, &path, options);
            file.write_vec(0, vec![1; MUCH]).await.unwrap();
            // Now the host meets it, on another's account.
            std::fs::File::open(&path).unwrap().sync_data().unwrap_err();
            assert_lost(file.flush().await);
            assert_lost(file.flush().await);
        });
    });
}
