//! Commits of the layer that the guest writes to, on real files, checked by qemu-img.

use std::{cell::Cell, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op, Request},
};

use super::{
    Bench,
    commit::{bytes_of, chain},
    live::{completed, qemu_img, snapshot},
};
use crate::api::{
    BlockCommit, BlockJobCancel, BlockJobInfo, BlockJobRef, Cmd, CommitDisk, Event, JobRef,
    JobStatus, Reply,
};

impl Bench {
    fn commit_top(&self, base: Option<&str>, speed: u64) {
        let cmd = Cmd::BlockCommit(Box::new(BlockCommit {
            device: "virtio0".to_owned(),
            base: base.map(str::to_owned),
            speed: Some(speed),
            ..BlockCommit::default()
        }));
        assert_eq!(self.command(cmd), Ok(Reply::Done));
    }

    fn job_info(&self) -> BlockJobInfo {
        match self.command(Cmd::QueryBlockJobs).unwrap() {
            Reply::BlockJobs(jobs) => jobs.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn complete(&self) {
        let device = "virtio0".to_owned();
        let cmd = Cmd::BlockJobComplete(BlockJobRef { device });
        assert_eq!(self.command(cmd), Ok(Reply::Done));
    }

    fn cancel(&self, force: bool) {
        let cmd = Cmd::BlockJobCancel(BlockJobCancel {
            device: "virtio0".to_owned(),
            force: Some(force),
        });
        assert_eq!(self.command(cmd), Ok(Reply::Done));
    }

    fn chain_names(&self) -> Vec<(String, bool)> {
        let root = self.engine.find_disk("virtio0").unwrap().root();
        let name = |node: &strata_graph::Node| {
            let name = node.path().file_name().unwrap().display().to_string();
            (name, node.is_writable())
        };
        root.chain().map(|node| name(&node)).collect()
    }
}

fn ready(events: &[Event]) -> bool {
    events
        .iter()
        .any(|event| matches!(event, Event::JobReady(_)))
}

/// In the order in which QEMU sends them.
fn words(events: Vec<Event>) -> Vec<String> {
    let word = |event| match event {
        Event::JobStatusChange { status, .. } => format!("{status:?}"),
        Event::JobReady(end) => format!("READY {} of {}", end.offset, end.len),
        Event::JobCompleted(end, None) => format!("COMPLETED {} of {}", end.offset, end.len),
        other => format!("{other:?}"),
    };
    events.into_iter().map(word).collect()
}

#[test]
fn the_base_takes_the_place_of_the_top() {
    let bench = Bench::new();
    let (disk, mut expected) = chain(&bench);
    bench.events();
    bench.commit_top(None, 0);
    bench.until(ready);
    let info = bench.job_info();
    assert_eq!((info.status, info.ready), (JobStatus::Ready, true));
    assert_eq!(info.actively_synced, Some(true));
    bench.complete();
    bench.until(completed);
    let all = 4 << 20;
    let life = [
        "Created".to_owned(),
        "Running".to_owned(),
        "Ready".to_owned(),
        format!("READY {all} of {all}"),
        "Waiting".to_owned(),
        "Pending".to_owned(),
        format!("COMPLETED {all} of {all}"),
        "Concluded".to_owned(),
        "Null".to_owned(),
    ];
    assert_eq!(words(bench.events()), life);
    assert_eq!(bench.chain_names(), [("A".to_owned(), true)]);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    // The guest goes on, and both ways to open the disk again show what it has written.
    bench.write(&disk, 1 << 20, vec![9; 128 << 10]).unwrap();
    expected[1 << 20..][..128 << 10].fill(9);
    for name in ["B", "C"] {
        std::fs::remove_file(bench.path(name)).unwrap();
    }
    assert!(bench.engine.shut_down().is_empty());
    for name in ["A", "D"] {
        qemu_img(&["check"], &bench.path(name));
        assert!(bytes_of(&bench, name) == expected, "{name}");
    }
    let info = qemu_img(&["info"], &bench.path("D"));
    assert!(info.contains(&format!("backing file: {}", bench.path("A").display())));
    let map = qemu_img(&["map", "--output=json"], &bench.path("D"));
    assert!(!map.contains("\"depth\": 0"), "{map}");
}

#[test]
fn what_the_guest_does_meanwhile_reaches_the_base() {
    let bench = Bench::new();
    let mut spec = super::spec("virtio0", &bench.create("A"), Some(Format::Qcow2));
    spec.image.discard = true;
    spec.disk.discard = true;
    let disk = bench.engine.open_disk(spec).unwrap();
    bench.write(&disk, 0, vec![1; 4 << 20]).unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    bench.write(&disk, 0, vec![2; 2 << 20]).unwrap();
    let mut expected = [vec![2; 2 << 20], vec![1; 2 << 20]].concat();
    let mut touch = |at: usize, byte: u8| {
        bench.write(&disk, at as u64, vec![byte; 3 << 9]).unwrap();
        expected[at..][..3 << 9].fill(byte);
        let at = at + (128 << 10);
        bench
            .run(&disk, Op::Discard, at as u64, 64 << 10, SgList::empty())
            .unwrap();
        expected[at..][..64 << 10].fill(0);
        let at = at + (128 << 10) + 512;
        let op = Op::WriteZeroes { unmap: true };
        bench
            .run(&disk, op, at as u64, 100 << 10, SgList::empty())
            .unwrap();
        expected[at..][..100 << 10].fill(0);
    };
    // While the bulk is copied, slowly, behind and before where that is.
    bench.commit_top(None, 4 << 20);
    touch(0, 3);
    touch(1 << 20, 4);
    bench.until(ready);
    touch(512 << 10, 5);
    bench.write(&disk, 3 << 20, vec![6; 512]).unwrap();
    expected[3 << 20..][..512].fill(6);
    let busy = "Node 'virtio0' is busy: block device is in use by block job: commit";
    let refused = bench.command(snapshot("virtio0", &bench.path("C")));
    assert_eq!(refused.unwrap_err().desc, busy);
    let now = bench.read(&disk, 0, 4 << 20);
    let differs = now.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(differs, None);
    // Ended so, the base is a copy of this moment, and the guest writes to the top alone.
    bench.cancel(false);
    bench.until(completed);
    let ended = words(bench.events());
    assert!(
        ended.iter().any(|word| word.starts_with("COMPLETED")),
        "{ended:?}"
    );
    let names = [("B".to_owned(), true), ("A".to_owned(), false)];
    assert_eq!(bench.chain_names(), names);
    assert!(bytes_of(&bench, "A") == expected);
    bench.write(&disk, 0, vec![7; 512]).unwrap();
    assert!(bytes_of(&bench, "A") == expected);
    let map = qemu_img(&["map", "-U", "--output=json"], &bench.path("A"));
    assert!(map.contains("\"zero\": true"), "zeroes stay zeroes: {map}");
    expected[..512].fill(7);
    assert!(bench.engine.shut_down().is_empty());
    assert!(bytes_of(&bench, "B") == expected);
}

#[test]
fn a_top_with_a_data_file_is_emptied() {
    let bench = Bench::new();
    bench.create("A");
    let options = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "A"];
    let data = format!("data_file={}", bench.path("data").display());
    let created = std::process::Command::new("qemu-img")
        .args(options)
        .args(["-o", &data, "B", "4M"])
        .current_dir(bench.directory.path())
        .status();
    assert!(created.unwrap().success());
    let top = bench.path("B");
    let disk = bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 1 << 20, vec![3; 1 << 20]).unwrap();
    let expected = bench.read(&disk, 0, 4 << 20);
    bench.commit_top(None, 0);
    bench.until(ready);
    bench.complete();
    bench.until(completed);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    for name in ["A", "B"] {
        qemu_img(&["check"], &bench.path(name));
        assert!(bytes_of(&bench, name) == expected, "{name}");
    }
}

#[test]
fn a_cancelled_one_leaves_the_chain_at_any_time() {
    for when_ready in [false, true] {
        let bench = Bench::new();
        let (disk, expected) = chain(&bench);
        bench.commit_top(Some("B"), if when_ready { 0 } else { 65536 });
        if when_ready {
            bench.until(ready);
        }
        bench.cancel(true);
        bench.until(|events| events.iter().any(|e| matches!(e, Event::JobCancelled(_))));
        assert!(bench.read(&disk, 0, 4 << 20) == expected);
        let names: Vec<_> = bench.chain_names();
        let expected_names = [("D", true), ("C", false), ("B", false), ("A", false)];
        assert_eq!(names, expected_names.map(|(name, w)| (name.to_owned(), w)));
        bench.write(&disk, 0, vec![7; 512]).unwrap();
        assert!(bench.engine.shut_down().is_empty());
        assert!(bytes_of(&bench, "D")[512..] == expected[512..]);
    }
}

#[test]
fn bases_of_every_format_become_the_disk() {
    for (format, size) in [
        ("raw", 1 << 20),
        ("raw", 4 << 20),
        ("qed", 1 << 20),
        ("qcow2", 512),
    ] {
        let bench = Bench::new();
        let (a, b) = (bench.path("A"), bench.path("B"));
        let size = size.to_string();
        let output = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .args([a.as_os_str(), size.as_ref()])
            .status();
        assert!(output.unwrap().success());
        let backing = ["create", "-q", "-f", "qcow2", "-F", format, "-b"];
        let output = std::process::Command::new("qemu-img")
            .args(backing)
            .args([a.as_os_str(), b.as_os_str(), "4M".as_ref()])
            .status();
        assert!(output.unwrap().success());
        let disk = bench.open("virtio0", &b, Some(Format::Qcow2)).unwrap();
        bench.write(&disk, 3 << 20, vec![5; 128 << 10]).unwrap();
        bench.write(&disk, 0, vec![6; 512]).unwrap();
        let before = bench.read(&disk, 0, 4 << 20);
        bench.commit_top(None, 0);
        bench.until(ready);
        bench.complete();
        bench.until(completed);
        assert_eq!(bench.chain_names(), [("A".to_owned(), true)], "{format}");
        assert_eq!(disk.info().size, 4 << 20);
        assert!(bench.read(&disk, 0, 4 << 20) == before, "{format}");
        assert!(bench.engine.shut_down().is_empty());
        assert!(bytes_of(&bench, "B") == before, "{format}");
    }
}

#[test]
fn a_base_that_is_longer_is_refused() {
    let bench = Bench::new();
    bench.create("A");
    let b = bench.path("B");
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
    let made = std::process::Command::new("qemu-img")
        .args(args)
        .args([bench.path("A").as_os_str(), b.as_os_str(), "1M".as_ref()])
        .status();
    assert!(made.unwrap().success());
    let _disk = bench.open("virtio0", &b, Some(Format::Qcow2)).unwrap();
    let device = "virtio0".to_owned();
    let cmd = Cmd::BlockCommit(Box::new(BlockCommit {
        device,
        ..BlockCommit::default()
    }));
    let refused = bench.command(cmd).unwrap_err().desc;
    assert!(
        refused.contains("shows 4194304 bytes, and the disk has 1048576"),
        "{refused}"
    );
}

/// Writes all of the disk again and again, without a pause.
fn write_on(disk: &Disk, round: u8, writes: &Rc<Cell<u64>>, at: u64) {
    let (again, count) = (disk.clone(), writes.clone());
    let request = Request {
        op: Op::Write { fua: false },
        offset: at,
        len: 256 << 10,
        data: SgList::from_vec(vec![round; 256 << 10]),
    };
    disk.submit(request, move |result| {
        result.unwrap();
        count.set(count.get() + 1);
        let next = (at + (256 << 10)) % (4 << 20);
        write_on(&again, round.wrapping_add(1), &count, next);
    });
}

#[test]
fn a_guest_that_never_rests_does_not_keep_it_from_becoming_ready() {
    let bench = Bench::new();
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    bench.write(&disk, 0, vec![1; 4 << 20]).unwrap();
    let writes = Rc::new(Cell::new(0));
    write_on(&disk, 2, &writes, 0);
    // The guest writes far more than that in a second.
    bench.commit_top(None, 8 << 20);
    bench.until(ready);
    let info = bench.job_info();
    assert_eq!(info.offset, info.len, "100 % means ready");
    // All of it once, and what was dirty no more than twice after that.
    assert!(info.len <= 3 * (4 << 20), "{} bytes", info.len);
    let before = writes.get();
    while writes.get() < before + 16 {
        bench.engine.poll();
    }
    bench.complete();
    bench.until(completed);
    assert_eq!(bench.chain_names(), [("A".to_owned(), true)]);
    let before = writes.get();
    while writes.get() < before + 16 {
        bench.engine.poll();
    }
}

#[test]
fn a_finished_one_waits_to_be_finalized_and_dismissed() {
    let bench = Bench::new();
    let (disk, expected) = chain(&bench);
    let cmd = Cmd::BlockCommit(Box::new(BlockCommit {
        job_id: Some("c".to_owned()),
        device: "virtio0".to_owned(),
        auto_finalize: Some(false),
        auto_dismiss: Some(false),
        ..BlockCommit::default()
    }));
    bench.command(cmd).unwrap();
    let job = || JobRef { id: "c".to_owned() };
    let early = bench.command(Cmd::JobComplete(job())).unwrap_err().desc;
    let words = "Job 'c' in state 'running' cannot accept command verb 'complete'";
    assert_eq!(early, words);
    bench.until(ready);
    bench.command(Cmd::JobComplete(job())).unwrap();
    bench.until(|events| events.iter().any(|e| matches!(e, Event::JobPending { .. })));
    // What is written now is there, too.
    bench.write(&disk, 0, vec![8; 512]).unwrap();
    bench.command(Cmd::JobFinalize(job())).unwrap();
    bench.until(completed);
    assert_eq!(bench.job_info().status, JobStatus::Concluded);
    bench.command(Cmd::JobDismiss(job())).unwrap();
    let now = bench.read(&disk, 0, 4 << 20);
    assert!(now[..512] == [8; 512] && now[512..] == expected[512..]);
    assert!(bench.engine.shut_down().is_empty());
    assert!(bytes_of(&bench, "A") == now);
}

fn commit_by_people(device: &str) -> Cmd {
    let device = device.to_owned();
    Cmd::Commit(CommitDisk { device })
}

#[test]
fn people_empty_the_top_into_its_backing_file() {
    let bench = Bench::new();
    let (disk, mut expected) = chain(&bench);
    let other = bench.open("other", &bench.create("E"), Some(Format::Qcow2));
    let _other = other.unwrap();
    let unsupported = "'commit' error for 'other': Operation not supported";
    let refused = |device| bench.command(commit_by_people(device)).unwrap_err().desc;
    assert_eq!(refused("other"), unsupported);
    assert_eq!(refused("nosuch"), "Device 'nosuch' not found");
    // Disks without a backing file have nothing to commit.
    bench.command(commit_by_people("all")).unwrap();
    let names = [("D", true), ("C", false), ("B", false), ("A", false)];
    let names = names.map(|(name, writable)| (name.to_owned(), writable));
    assert_eq!(bench.chain_names(), names);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    let map = qemu_img(&["map", "-U", "--output=json"], &bench.path("D"));
    assert!(!map.contains("\"depth\": 0"), "{map}");
    assert!(bytes_of(&bench, "C") == expected);
    // The guest goes on in the top.
    bench.write(&disk, 0, vec![7; 512]).unwrap();
    assert!(bytes_of(&bench, "C") == expected);
    expected[..512].fill(7);
    bench.commit_top(Some("A"), 65536);
    let busy = "'commit' error for 'virtio0': Node 'virtio0' is busy: block device is in use by \
                block job: commit";
    assert_eq!(refused("virtio0"), busy);
    bench.cancel(true);
    assert!(bench.engine.shut_down().is_empty());
    assert!(bytes_of(&bench, "D") == expected);
}
