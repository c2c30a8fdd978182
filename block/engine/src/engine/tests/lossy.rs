//! Disks on devices that lose what is written to them: the error is reported to all who were
//! promised that it is safe.

use std::path::PathBuf;

use strata_exec::{mem::SgList, sync::promise};
use strata_graph::{
    Format,
    disk::{Disk, Op},
};
use strata_storage::{
    error::{Error, IoError, IoResult},
    lossy::LossyDevice,
};

use super::{
    Bench,
    live::{snapshot, stream},
};
use crate::api::{Cmd, Event, Reply};

/// A raw disk of 16 MiB, just written, on a device that cannot store two of them.
fn overfull(bench: &Bench) -> Option<(LossyDevice, PathBuf, Disk)> {
    let mut device = LossyDevice::new(32, 8..10)?;
    let path = device.directory().join("A");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let disk = bench.open("virtio0", &path, Some(Format::Raw)).unwrap();
    bench.write(&disk, 0, vec![1; 16 << 20]).unwrap();
    Some((device, path, disk))
}

fn flush(bench: &Bench, disk: &Disk) -> IoResult<()> {
    bench.run(disk, Op::Flush, 0, 0, SgList::empty())
}

fn assert_lost(result: IoResult<()>) {
    assert!(matches!(result, Err(IoError::Lost { .. })), "{result:?}");
}

#[test]
fn what_fails_stop_fails_the_guests_flush_too() {
    let bench = Bench::new();
    let Some((_device, _, disk)) = overfull(&bench) else {
        return;
    };
    let (done, ended) = promise();
    bench.engine.quiesce(done);
    let errors = bench.engine.exec().block_on(ended);
    assert!(matches!(errors[..], [Error::Io(IoError::Lost { .. })]));
    assert_lost(flush(&bench, &disk));
    let bytes = SgList::from_vec(vec![2; 512]);
    assert_lost(bench.run(&disk, Op::Write { fua: true }, 0, 512, bytes));
    // It can still be read and written, for a user who wants to save something.
    bench.write(&disk, 0, vec![3; 512]).unwrap();
    assert_eq!(bench.read(&disk, 0, 512), [3; 512]);
    assert_eq!(
        bench.engine.shut_down().len(),
        1,
        "closing tells it once more"
    );
}

#[test]
fn what_fails_a_snapshot_fails_the_guests_flush_too() {
    let bench = Bench::new();
    let Some((device, path, disk)) = overfull(&bench) else {
        return;
    };
    for _ in 0..2 {
        let refused = bench
            .command(snapshot("virtio0", &bench.path("B")))
            .unwrap_err();
        let name = path.to_str().unwrap();
        assert!(
            refused.desc.contains(name) && refused.desc.contains("may be lost"),
            "{}",
            refused.desc
        );
        assert!(!bench.path("B").exists());
        device.mend();
    }
    assert_lost(flush(&bench, &disk));
}

/// A merge of 16 MiB into a top on a device that cannot store two of them.
fn merge_onto_a_lossy_device(bench: &Bench) -> Option<(LossyDevice, Disk)> {
    let mut device = LossyDevice::new(32, 3..5)?;
    let base = bench.path("A");
    std::fs::write(&base, vec![1; 16 << 20]).unwrap();
    let disk = bench.open("virtio0", &base, Some(Format::Raw)).unwrap();
    let top = device.directory().join("B");
    bench.command(snapshot("virtio0", &top)).unwrap();
    bench.command(stream(None, 0)).unwrap();
    Some((device, disk))
}

#[test]
fn a_merge_whose_bytes_are_lost_is_not_completed() {
    let bench = Bench::new();
    let Some((_device, disk)) = merge_onto_a_lossy_device(&bench) else {
        return;
    };
    bench.until(|events| {
        events
            .iter()
            .any(|event| matches!(event, Event::JobCompleted(..)))
    });
    let events = bench.events();
    let completed = events.iter().find_map(|event| match event {
        Event::JobCompleted(_, error) => Some(error.clone()),
        _ => None,
    });
    let error = completed
        .flatten()
        .expect("the merge says that all is well");
    assert!(
        error.contains("may be lost") || error.contains("stopped"),
        "{error}"
    );
    let layers = bench
        .engine
        .find_disk("virtio0")
        .unwrap()
        .root()
        .chain()
        .count();
    assert_eq!(layers, 2, "the base is still needed");
    flush(&bench, &disk).unwrap_err();
    assert!(!bench.engine.shut_down().is_empty());
}

/// The merge comes upon the loss, and says nothing to anybody as it is paused.
#[test]
fn what_a_merge_has_lost_of_the_guests_fails_the_guests_flush() {
    let bench = Bench::new();
    let Some((_device, disk)) = merge_onto_a_lossy_device(&bench) else {
        return;
    };
    bench.write(&disk, 0, vec![2; 12 << 20]).unwrap();
    let job = || match bench.command(Cmd::QueryBlockJobs) {
        Ok(Reply::BlockJobs(jobs)) => jobs.into_iter().next(),
        other => panic!("{other:?}"),
    };
    while job().is_some_and(|job| job.offset < 14 << 20) {
        bench.engine.poll();
    }
    flush(&bench, &disk).unwrap_err();
    assert!(!bench.engine.shut_down().is_empty());
}
