//! Snapshots and merges on real files, checked by qemu-img.

use std::{path::Path, process::Command};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op},
};

use super::Bench;
use crate::api::{
    BlockJobCancel, BlockStream, BlockdevSnapshotSync, Cmd, Event, JobRef, JobStatus, Reply,
};

pub(super) fn snapshot(device: &str, file: &Path) -> Cmd {
    Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some(device.to_owned()),
        snapshot_file: file.display().to_string(),
        ..BlockdevSnapshotSync::default()
    })
}

pub(super) fn stream(base: Option<&str>, speed: u64) -> Cmd {
    Cmd::BlockStream(BlockStream {
        device: "virtio0".to_owned(),
        base: base.map(str::to_owned),
        speed: Some(speed),
        ..BlockStream::default()
    })
}

pub(super) fn qemu_img(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("qemu-img")
        .args(arguments)
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A disk on [A] -> [B] -> [C] -> [D]; each layer holds a 256 KiB run of its own number, which
/// overlaps the one below by half.
pub(super) fn chain(bench: &Bench) -> Disk {
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    for (i, name) in [(1u8, "A"), (2, "B"), (3, "C"), (4, "D")] {
        if name != "A" {
            let reply = bench
                .command(snapshot("virtio0", &bench.path(name)))
                .unwrap();
            let Reply::Formatted(line) = reply else {
                panic!("{reply:?}")
            };
            assert!(line.starts_with("Formatting '") && line.contains("backing_fmt=qcow2"));
        }
        bench
            .write(&disk, u64::from(i) * (128 << 10), vec![i; 256 << 10])
            .unwrap();
    }
    disk
}

fn expected() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    for i in 1..=4u8 {
        bytes[usize::from(i) * (128 << 10)..][..256 << 10].fill(i);
    }
    bytes
}

pub(super) fn completed(events: &[Event]) -> bool {
    events
        .iter()
        .any(|event| matches!(event, Event::JobCompleted(..) | Event::JobCancelled(..)))
}

#[test]
fn a_merge_down_to_a_base_leaves_two_layers() {
    let bench = Bench::new();
    let disk = chain(&bench);
    let base = std::fs::read(bench.path("A")).unwrap();
    bench.events();
    bench.command(stream(Some("A"), 0)).unwrap();
    bench.until(completed);
    let Reply::Block(disks) = bench.command(Cmd::QueryBlock).unwrap() else {
        panic!()
    };
    assert_eq!(disks[0].inserted.as_ref().unwrap().backing_file_depth, 1);
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected());
    let states: Vec<_> = bench
        .events()
        .into_iter()
        .map(|event| match event {
            Event::JobStatusChange { status, .. } => Some(status),
            Event::JobCompleted(end, error) => {
                assert_eq!((end.len, end.offset, error), (4 << 20, 4 << 20, None));
                None
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected_states = [
        Some(JobStatus::Created),
        Some(JobStatus::Running),
        Some(JobStatus::Waiting),
        Some(JobStatus::Pending),
        None,
        Some(JobStatus::Concluded),
        Some(JobStatus::Null),
    ];
    assert_eq!(states, expected_states);
    // Before anything else is flushed: what the event promises is in the files.
    let info = qemu_img(&["info", "-U", "--backing-chain"], &bench.path("D"));
    assert_eq!(info.matches("image: ").count(), 2, "{info}");
    assert_eq!(std::fs::read(bench.path("A")).unwrap(), base);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check"], &bench.path("D"));
    std::fs::remove_file(bench.path("B")).unwrap();
    std::fs::remove_file(bench.path("C")).unwrap();
    let raw = bench.path("raw");
    qemu_img(
        &["convert", "-O", "raw", bench.path("D").to_str().unwrap()],
        &raw,
    );
    assert_eq!(std::fs::read(raw).unwrap(), expected());
}

#[test]
fn a_merge_without_a_base_leaves_the_top_alone() {
    let bench = Bench::new();
    let disk = chain(&bench);
    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    assert!(bench.engine.shut_down().is_empty());
    drop(disk);
    for name in ["A", "B", "C"] {
        std::fs::remove_file(bench.path(name)).unwrap();
    }
    qemu_img(&["check"], &bench.path("D"));
    let bench2 = Bench::new();
    let disk = bench2
        .open("virtio0", &bench.path("D"), Some(Format::Qcow2))
        .unwrap();
    assert_eq!(bench2.read(&disk, 0, 4 << 20), expected());
}

#[test]
fn a_cancelled_merge_leaves_the_chain_and_a_second_one_finishes() {
    let bench = Bench::new();
    let disk = chain(&bench);
    bench.command(stream(Some("A"), 65536)).unwrap();
    let busy = bench.command(stream(Some("A"), 0)).unwrap_err().desc;
    assert_eq!(busy, "Job ID 'virtio0' already in use");
    let busy = bench
        .command(snapshot("virtio0", &bench.path("E")))
        .unwrap_err()
        .desc;
    let expected_text = "Node 'virtio0' is busy: block device is in use by block job: stream";
    assert_eq!(busy, expected_text);
    assert!(!bench.path("E").exists());
    let cancel = Cmd::BlockJobCancel(BlockJobCancel {
        device: "virtio0".to_owned(),
        ..BlockJobCancel::default()
    });
    bench.command(cancel).unwrap();
    bench.until(completed);
    assert!(
        bench
            .events()
            .iter()
            .any(|event| matches!(event, Event::JobCancelled(_)))
    );
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected());
    bench.command(stream(Some("A"), 0)).unwrap();
    bench.until(completed);
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected());
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check"], &bench.path("D"));
}

#[test]
fn a_job_that_waits_for_its_client_is_finalized_and_dismissed() {
    let bench = Bench::new();
    let _disk = chain(&bench);
    let cmd = Cmd::BlockStream(BlockStream {
        job_id: Some("mine".to_owned()),
        device: "virtio0".to_owned(),
        base: Some("B".to_owned()),
        auto_finalize: Some(false),
        auto_dismiss: Some(false),
        ..BlockStream::default()
    });
    bench.command(cmd).unwrap();
    bench.until(|events| {
        events
            .iter()
            .any(|event| matches!(event, Event::JobPending { .. }))
    });
    let Reply::Jobs(jobs) = bench.command(Cmd::QueryJobs).unwrap() else {
        panic!()
    };
    assert_eq!(
        (jobs[0].id.as_str(), jobs[0].status),
        ("mine", JobStatus::Pending)
    );
    let dismiss = Cmd::JobDismiss(JobRef {
        id: "mine".to_owned(),
    });
    let error = bench.command(dismiss.clone()).unwrap_err().desc;
    assert_eq!(
        error,
        "Job 'mine' in state 'pending' cannot accept command verb 'dismiss'"
    );
    bench
        .command(Cmd::JobFinalize(JobRef {
            id: "mine".to_owned(),
        }))
        .unwrap();
    bench.until(completed);
    while bench.command(dismiss.clone()).is_err() {}
    assert_eq!(
        bench.command(Cmd::QueryJobs).unwrap(),
        Reply::Jobs(Vec::new())
    );
}

#[test]
fn a_merge_with_nothing_to_do_ends_at_once() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, [5; 4096]).unwrap();
    let _disk = bench.open("virtio0", &path, Some(Format::Raw)).unwrap();
    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    let end = bench.events().into_iter().find_map(|event| match event {
        Event::JobCompleted(end, None) => Some((end.len, end.offset)),
        _ => None,
    });
    assert_eq!(end, Some((0, 0)));
}

#[test]
fn a_base_that_is_longer_than_the_layers_above_does_not_come_to_light() {
    let bench = Bench::new();
    let image = |name: &str, size: &str, backing: Option<&str>| {
        let path = bench.path(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            command.args(["-F", "qcow2", "-b"]).arg(bench.path(backing));
        }
        assert!(command.arg(&path).arg(size).status().unwrap().success());
        path
    };
    let base = image("A", "4M", None);
    let fill = Command::new("qemu-io")
        .args(["-c", "write -q -P 9 0 4M"])
        .arg(&base)
        .status();
    assert!(fill.unwrap().success());
    image("B", "1M", Some("A"));
    let top = image("C", "4M", Some("B"));
    let disk = bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
    let before = bench.read(&disk, 0, 4 << 20);
    assert_eq!((before[0], before[1 << 20]), (9, 0));
    bench.command(stream(Some("A"), 0)).unwrap();
    bench.until(completed);
    assert_eq!(bench.read(&disk, 0, 4 << 20), before);
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    let list = qemu_img(&["info", "-U", "--backing-chain"], &top);
    assert_eq!(list.matches("image: ").count(), 2, "{list}");
}
