//! Jobs that outlive their process.

use std::{fs, path::Path};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op},
};

use super::{
    Bench, Engine,
    live::{qemu_img, snapshot},
};
use crate::api::{
    BlockCommit, BlockJobInfo, BlockJobSetSpeed, BlockStream, Cmd, CmdError, JobRef, JobStatus,
    Reply,
};

const MIB: u64 = 1 << 20;

impl Bench {
    /// Ends the process as SIGKILL does, or in an orderly way, and begins another one.
    fn again(self, kill: bool) -> Self {
        let Self {
            engine,
            events,
            directory,
        } = self;
        if kill {
            engine.exec().drop_tasks();
        } else {
            assert!(engine.shut_down().is_empty());
            engine.exec().drop_tasks();
        }
        drop(engine);
        let sink = events.clone();
        Self {
            engine: Engine::new(move |event| sink.borrow_mut().push(event)).unwrap(),
            events,
            directory,
        }
    }

    fn state_dir(&self) -> std::path::PathBuf {
        let path = self.path("state");
        if !path.exists() {
            fs::create_dir(&path).unwrap();
        }
        path
    }

    fn flush(&self, disk: &Disk) {
        self.run(disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    }

    /// What is said of records of which nothing can be made.
    fn keep_jobs(&self, resume: bool) -> Vec<String> {
        let directory = self.state_dir();
        let kept = self
            .engine
            .keep_jobs_by_the_way(&directory, resume, 1 << 18);
        kept.unwrap()
    }

    fn records(&self) -> Vec<String> {
        let found = fs::read_dir(self.state_dir()).unwrap();
        let mut names: Vec<_> = found
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A disk on [A] -> [B] -> [C] -> [D], each with a MiB of its own number.
    fn four_layers(&self, id: &str) -> Disk {
        let path = self.create(&format!("{id}-A"));
        let disk = self.open(id, &path, Some(Format::Qcow2)).unwrap();
        for (number, name) in [(1, "A"), (2, "B"), (3, "C"), (4, "D")] {
            if name != "A" {
                let path = self.path(&format!("{id}-{name}"));
                self.command(snapshot(id, &path)).unwrap();
            }
            let at = (u64::from(number) - 1) * MIB;
            self.write(&disk, at, vec![number; MIB as usize]).unwrap();
            let at = u64::from(number) * MIB - (4 << 10);
            self.write(&disk, at % (4 * MIB), vec![number; 4 << 10])
                .unwrap();
        }
        self.flush(&disk);
        disk
    }

    fn open_again(&self, id: &str, top: &str) -> Disk {
        let path = self.path(&format!("{id}-{top}"));
        self.open(id, &path, Some(Format::Qcow2)).unwrap()
    }

    /// Has a job that is paused go on to its end, as fast as it can.
    fn let_go_on(&self, id: &str) {
        let speed = BlockJobSetSpeed {
            device: id.to_owned(),
            speed: 0,
        };
        self.command(Cmd::BlockJobSetSpeed(speed)).unwrap();
        self.command(Cmd::JobResume(on(id))).unwrap();
        self.poll_until(|| self.job().status == JobStatus::Concluded);
    }

    fn job(&self) -> BlockJobInfo {
        match self.command(Cmd::QueryBlockJobs) {
            Ok(Reply::BlockJobs(jobs)) if jobs.len() == 1 => jobs.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn job_count(&self) -> usize {
        match self.command(Cmd::QueryJobs) {
            Ok(Reply::Jobs(jobs)) => jobs.len(),
            other => panic!("{other:?}"),
        }
    }

    fn depth(&self, id: &str) -> usize {
        self.engine.find_disk(id).unwrap().root().chain().count()
    }
}

fn on(id: &str) -> JobRef {
    JobRef { id: id.to_owned() }
}

fn slow_stream() -> BlockStream {
    BlockStream {
        device: "virtio0".to_owned(),
        base: Some("virtio0-A".to_owned()),
        speed: Some(64 << 10),
        auto_dismiss: Some(false),
        ..BlockStream::default()
    }
}

fn slow_commit() -> BlockCommit {
    BlockCommit {
        device: "virtio0".to_owned(),
        top: Some("virtio0-C".to_owned()),
        speed: Some(4 * MIB),
        auto_dismiss: Some(false),
        ..BlockCommit::default()
    }
}

fn desc(result: Result<Reply, CmdError>) -> String {
    result.unwrap_err().desc
}

#[test]
fn a_stream_goes_on_in_the_next_process() {
    for kill in [false, true] {
        let bench = Bench::new();
        let disk = bench.four_layers("virtio0");
        assert!(bench.keep_jobs(false).is_empty());
        assert_eq!(bench.records(), [""; 0]);
        bench.command(Cmd::BlockStream(slow_stream())).unwrap();
        bench.poll_until(|| bench.job().offset > 0);
        assert_eq!(bench.records(), ["virtio0.job"]);
        let before = bench.read(&disk, 0, 4 << 20);
        drop(disk);

        let bench = bench.again(kill);
        let disk = bench.open_again("virtio0", "D");
        assert!(bench.keep_jobs(false).is_empty());
        bench.poll_until(|| bench.job().status == JobStatus::Paused);
        let job = bench.job();
        assert!(job.paused && job.speed == 64 << 10 && !job.auto_dismiss);
        // It holds what it will merge.
        let refused = desc(bench.command(snapshot("virtio0", &bench.path("E"))));
        assert!(refused.ends_with("block job: stream"), "{refused}");
        assert!(bench.read(&disk, 0, 4 << 20) == before);
        bench.let_go_on("virtio0");
        assert_eq!((bench.job().error, bench.depth("virtio0")), (None, 2));
        assert!(bench.read(&disk, 0, 4 << 20) == before);
        drop(disk);

        // Its result is there until somebody has seen it.
        let bench = bench.again(kill);
        let disk = bench.open_again("virtio0", "D");
        assert!(bench.keep_jobs(true).is_empty());
        let job = bench.job();
        assert_eq!((job.status, job.error), (JobStatus::Concluded, None));
        assert_eq!((job.offset, job.len), (4 << 20, 4 << 20));
        let paused = "Job 'virtio0' in state 'concluded' cannot accept command verb 'pause'";
        assert_eq!(desc(bench.command(Cmd::JobPause(on("virtio0")))), paused);
        let used = "Job ID 'virtio0' already in use";
        assert_eq!(desc(bench.command(Cmd::BlockStream(slow_stream()))), used);
        bench.command(Cmd::JobDismiss(on("virtio0"))).unwrap();
        assert_eq!((bench.job_count(), bench.records().len()), (0, 0));
        assert_eq!(
            desc(bench.command(Cmd::JobDismiss(on("virtio0")))),
            "Job not found"
        );
        assert!(bench.read(&disk, 0, 4 << 20) == before);
        assert!(bench.engine.shut_down().is_empty());
        check(&bench.path("virtio0-D"));
    }
}

#[test]
fn a_commit_goes_on_from_where_it_was() {
    for kill in [false, true] {
        let bench = Bench::new();
        let disk = bench.four_layers("virtio0");
        bench.keep_jobs(false);
        let commit = Cmd::BlockCommit(Box::new(slow_commit()));
        bench.command(commit).unwrap();
        bench.poll_until(|| bench.job().offset > MIB);
        let before = bench.read(&disk, 0, 4 << 20);
        drop(disk);

        let bench = bench.again(kill);
        let disk = bench.open_again("virtio0", "D");
        assert!(bench.keep_jobs(false).is_empty());
        bench.poll_until(|| bench.job().status == JobStatus::Paused);
        // All of A's MiB, at least.
        assert!(bench.job().offset >= MIB, "{:?}", bench.job());
        drop(disk);

        // And at once.
        let bench = bench.again(kill);
        let disk = bench.open_again("virtio0", "D");
        assert!(bench.keep_jobs(true).is_empty());
        bench.poll_until(|| bench.job().status == JobStatus::Concluded);
        assert_eq!((bench.job().error, bench.depth("virtio0")), (None, 2));
        assert!(bench.read(&disk, 0, 4 << 20) == before);
        assert!(bench.engine.shut_down().is_empty());
        for name in ["A", "D"] {
            check(&bench.path(&format!("virtio0-{name}")));
        }
    }
}

#[test]
fn a_commit_of_the_top_begins_again_and_takes_over() {
    let bench = Bench::new();
    let disk = bench.four_layers("virtio0");
    bench.keep_jobs(false);
    let commit = BlockCommit {
        top: None,
        speed: None,
        ..slow_commit()
    };
    bench.command(Cmd::BlockCommit(Box::new(commit))).unwrap();
    bench.poll_until(|| bench.job().ready);
    bench.write(&disk, 3 * MIB, vec![9; 4096]).unwrap();
    bench.flush(&disk);
    let before = bench.read(&disk, 0, 4 << 20);
    drop(disk);

    let bench = bench.again(true);
    let disk = bench.open_again("virtio0", "D");
    // What is written now, nobody notes.
    bench.write(&disk, MIB / 2, vec![8; 4096]).unwrap();
    assert!(bench.keep_jobs(true).is_empty());
    bench.poll_until(|| bench.job().ready);
    bench.command(Cmd::JobComplete(on("virtio0"))).unwrap();
    bench.poll_until(|| bench.job().status == JobStatus::Concluded);
    assert_eq!((bench.job().error, bench.depth("virtio0")), (None, 1));
    let mut expected = before;
    expected[(MIB / 2) as usize..][..4096].fill(8);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    drop(disk);

    // The same command line opens the same disk; of the job only its result is left.
    let bench = bench.again(true);
    let disk = bench.open_again("virtio0", "D");
    assert!(bench.keep_jobs(true).is_empty());
    assert_eq!(bench.job().status, JobStatus::Concluded);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_stream_into_a_layer_below_the_top_goes_on() {
    let bench = Bench::new();
    let disk = bench.four_layers("virtio0");
    bench.keep_jobs(false);
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    let [c, b] = [1, 2].map(|at| root.chain().nth(at).unwrap().name().to_owned());
    drop(root);
    let stream = BlockStream {
        device: c,
        job_id: Some("mid".to_owned()),
        base: None,
        bottom: Some(b),
        ..slow_stream()
    };
    bench.command(Cmd::BlockStream(stream)).unwrap();
    let before = bench.read(&disk, 0, 4 << 20);
    drop(disk);

    let bench = bench.again(true);
    let disk = bench.open_again("virtio0", "D");
    assert!(bench.keep_jobs(false).is_empty());
    bench.poll_until(|| bench.job().status == JobStatus::Paused);
    bench.let_go_on("mid");
    // D, C and A: the job knows what was at the bottom, whatever it is called now.
    assert_eq!((bench.job().error, bench.depth("virtio0")), (None, 3));
    assert!(bench.read(&disk, 0, 4 << 20) == before);
    assert!(bench.engine.shut_down().is_empty());
    check(&bench.path("virtio0-C"));
}

/// Nothing is wrong with an image but for clusters that a kill has left to nobody.
fn check(image: &Path) {
    qemu_img(&["check", "-q", "-r", "leaks"], image);
    qemu_img(&["check"], image);
}

#[test]
fn what_does_not_fit_the_images_is_reported_and_not_acted_on() {
    type Change = fn(&Bench);
    let changes: [(&str, Change); 4] = [
        ("is no layer of disk 'virtio0'", |bench| {
            // Another file under the same name.
            let (path, copy) = (bench.path("virtio0-D"), bench.path("copy"));
            fs::copy(&path, &copy).unwrap();
            fs::rename(&copy, &path).unwrap();
        }),
        ("shows 8388608 bytes, and did show 4194304", |bench| {
            qemu_img_last(&["resize", "-q"], &bench.path("virtio0-D"), "8M");
        }),
        ("what lies below", |bench| {
            // C is gone.
            let (top, below) = (bench.path("virtio0-D"), bench.path("virtio0-B"));
            let below = below.to_str().unwrap();
            qemu_img(&["rebase", "-F", "qcow2", "-b", below], &top);
        }),
        ("there is no disk 'virtio0'", |_| ()),
    ];
    for (number, (words, change)) in changes.into_iter().enumerate() {
        let bench = Bench::new();
        drop(bench.four_layers("virtio0"));
        bench.keep_jobs(false);
        bench.command(Cmd::BlockStream(slow_stream())).unwrap();
        let bench = bench.again(false);
        change(&bench);
        let id = if number == 3 { "other" } else { "virtio0" };
        let path = bench.path("virtio0-D");
        let disk = bench.open(id, &path, Some(Format::Qcow2)).unwrap();
        let before = fs::read(&path).unwrap();
        let lines = bench.keep_jobs(true);
        let fits = "job 'virtio0', left by an earlier process: it does not fit the images any more";
        assert!(lines.len() == 1 && lines[0].starts_with(fits), "{lines:?}");
        assert!(lines[0].contains(words), "{lines:?}");
        let job = bench.job();
        assert_eq!(job.status, JobStatus::Concluded);
        assert!(job.error.unwrap().contains(words));
        for _ in 0..1000 {
            bench.engine.poll();
        }
        assert!(fs::read(&path).unwrap() == before);
        bench.command(Cmd::JobDismiss(on("virtio0"))).unwrap();
        assert_eq!(bench.records(), [""; 0]);
        drop(disk);
        assert!(bench.engine.shut_down().is_empty());
    }
}

fn qemu_img_last(arguments: &[&str], file: &Path, last: &str) {
    let status = std::process::Command::new("qemu-img")
        .args(arguments)
        .arg(file)
        .arg(last)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn files_that_are_no_records_are_reported() {
    let bench = Bench::new();
    drop(bench.four_layers("virtio0"));
    bench.keep_jobs(false);
    bench.command(Cmd::BlockStream(slow_stream())).unwrap();
    let bench = bench.again(true);
    let _disk = bench.open_again("virtio0", "D");
    let state = bench.state_dir();
    let record = fs::read(state.join("virtio0.job")).unwrap();
    fs::write(state.join("virtio0.job"), &record[..record.len() / 2]).unwrap();
    fs::write(state.join("other.job"), &record).unwrap();
    fs::write(state.join("empty.job"), "").unwrap();
    fs::write(state.join("notes.txt"), "mine").unwrap();
    fs::create_dir(state.join("directory.job")).unwrap();
    let lines = bench.keep_jobs(true);
    for (name, why) in [
        ("directory.job", "directory"),
        ("empty.job", "does not begin as a record"),
        ("other.job", "it is that of job 'virtio0'"),
        ("virtio0.job", "its checksum does not fit"),
    ] {
        let said = |line: &String| line.contains(name) && line.contains(why);
        assert!(lines.iter().any(said), "{name}: {lines:?}");
    }
    assert_eq!((lines.len(), bench.job_count()), (4, 0));
    assert_eq!(bench.records().len(), 5);
    assert_eq!(bench.depth("virtio0"), 4);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_job_that_cannot_be_recorded_does_not_begin() {
    let bench = Bench::new();
    let _disk = bench.four_layers("virtio0");
    bench.keep_jobs(false);
    let state = bench.state_dir();
    fs::remove_dir(&state).unwrap();
    let refused = desc(bench.command(Cmd::BlockStream(slow_stream())));
    let words = "The job cannot be recorded: could not write '";
    assert!(refused.starts_with(words), "{refused}");
    assert_eq!(bench.job_count(), 0);
    // Nothing is held for it.
    bench
        .command(snapshot("virtio0", &bench.path("E")))
        .unwrap();
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_directory_has_one_process() {
    let bench = Bench::new();
    bench.keep_jobs(false);
    let other = Engine::new(|_| {}).unwrap();
    let error = other.keep_jobs_in(&bench.state_dir(), false).unwrap_err();
    let words = "is the directory of another process";
    assert!(error.to_string().contains(words), "{error}");
    for (path, words) in [("nosuch", "No such file"), ("file", "not a directory")] {
        fs::write(bench.path("file"), "").unwrap();
        let error = other.keep_jobs_in(&bench.path(path), false).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_group_whose_data_is_in_place_is_finished_by_the_next_process() {
    let bench = Bench::new();
    for id in ["one", "two"] {
        drop(bench.four_layers(id));
    }
    bench.keep_jobs(false);
    let member = |id: &str| {
        Cmd::BlockStream(BlockStream {
            device: id.to_owned(),
            group: Some("g".to_owned()),
            group_size: Some(2),
            ..BlockStream::default()
        })
    };
    bench.command(member("one")).unwrap();
    bench.command(member("two")).unwrap();
    // Killed when one header has been written, or both, and no graph has followed.
    let names_nothing = |id: &str| {
        let info = qemu_img(&["info", "-U"], &bench.path(&format!("{id}-D")));
        !info.contains("backing file:")
    };
    while !["one", "two"].into_iter().any(names_nothing) {
        bench.engine.poll();
    }
    assert_eq!(bench.records(), ["one.job", "two.job"]);
    let bench = bench.again(true);
    let disks = ["one", "two"].map(|id| bench.open_again(id, "D"));
    assert!(bench.keep_jobs(true).is_empty());
    bench.poll_until(|| bench.job_count() == 0);
    assert_eq!((bench.depth("one"), bench.depth("two")), (1, 1));
    assert_eq!(bench.records(), [""; 0]);
    let [one, two] = disks.each_ref().map(|disk| bench.read(disk, 0, 4 << 20));
    assert!(one == two);
    assert!(bench.engine.shut_down().is_empty());
}
