//! Merges of several disks that finish as one.

use strata_graph::{Format, disk::Disk};

use super::{
    Bench,
    live::{qemu_img, snapshot},
};
use crate::api::{
    BlockCommit, BlockJobInfo, BlockJobRef, BlockJobSetSpeed, BlockStream, Cmd, CmdError,
    CompletionMode, Event, JobInfo, JobRef, JobStatus, NoData, Reply, Transaction,
    TransactionAction, TransactionProperties,
};

const DISKS: [&str; 2] = ["one", "two"];

impl Bench {
    /// Two disks of three layers, each of which holds 256 KiB.
    fn two_chains(&self) -> [Disk; 2] {
        DISKS.map(|id| {
            let path = self.create(&format!("{id}-A"));
            let disk = self.open(id, &path, Some(Format::Qcow2)).unwrap();
            for (number, name) in [(1, ""), (2, "B"), (3, "C")] {
                if !name.is_empty() {
                    let path = self.path(&format!("{id}-{name}"));
                    self.command(snapshot(id, &path)).unwrap();
                }
                let at = u64::from(number) << 18;
                self.write(&disk, at, vec![number; 256 << 10]).unwrap();
            }
            disk
        })
    }

    fn join_stream(&self, id: &str, size: Option<u32>) -> Result<Reply, CmdError> {
        self.command(member(id, size))
    }

    fn depths(&self) -> [usize; 2] {
        DISKS.map(|id| self.engine.find_disk(id).unwrap().root().chain().count())
    }

    fn jobs(&self) -> Vec<BlockJobInfo> {
        match self.command(Cmd::QueryBlockJobs) {
            Ok(Reply::BlockJobs(jobs)) => jobs,
            other => panic!("{other:?}"),
        }
    }

    fn generic_jobs(&self) -> Vec<JobInfo> {
        match self.command(Cmd::QueryJobs) {
            Ok(Reply::Jobs(jobs)) => jobs,
            other => panic!("{other:?}"),
        }
    }

    fn states(&self) -> Vec<JobStatus> {
        self.jobs().iter().map(|job| job.status).collect()
    }

    fn until_states(&self, wanted: &[JobStatus]) {
        self.poll_until(|| self.states() == wanted);
    }

    fn contents(&self, disks: &[Disk]) -> Vec<Vec<u8>> {
        let all = |disk| self.read(disk, 0, 4 << 20);
        disks.iter().map(all).collect()
    }

    /// The files that the headers of the tops name.
    fn headers(&self) -> [bool; 2] {
        DISKS.map(|id| {
            let info = qemu_img(&["info", "-U"], &self.path(&format!("{id}-C")));
            info.contains(&format!("{id}-B"))
        })
    }
}

fn member(id: &str, size: Option<u32>) -> Cmd {
    Cmd::BlockStream(stream(id, size))
}

fn stream(id: &str, size: Option<u32>) -> BlockStream {
    BlockStream {
        device: id.to_owned(),
        base: Some(format!("{id}-A")),
        group: Some("g".to_owned()),
        group_size: size,
        auto_dismiss: Some(false),
        ..BlockStream::default()
    }
}

fn refused(result: Result<Reply, CmdError>) -> String {
    result.unwrap_err().desc
}

#[test]
fn no_chain_is_shorter_before_all_have_their_data_in_place() {
    let bench = Bench::new();
    let disks = bench.two_chains();
    let before = bench.contents(&disks);
    bench.join_stream("one", Some(2)).unwrap();
    bench.until_states(&[JobStatus::Waiting]);
    // The other one is slow, and then pauses.
    let slow = BlockStream {
        speed: Some(64 << 10),
        ..stream("two", None)
    };
    bench.command(Cmd::BlockStream(slow)).unwrap();
    bench
        .command(Cmd::JobPause(JobRef {
            id: "two".to_owned(),
        }))
        .unwrap();
    bench.until_states(&[JobStatus::Waiting, JobStatus::Paused]);
    assert_eq!((bench.depths(), bench.headers()), ([3, 3], [true, true]));
    let jobs = bench.jobs();
    assert_eq!(jobs[0].group.as_deref(), Some("g"));
    assert_eq!(jobs[0].offset, jobs[0].len);
    assert_eq!(bench.generic_jobs()[1].group.as_deref(), Some("g"));
    for cmd in [
        Cmd::BlockJobSetSpeed(BlockJobSetSpeed {
            device: "two".to_owned(),
            speed: 0,
        }),
        Cmd::BlockJobResume(BlockJobRef {
            device: "two".to_owned(),
        }),
    ] {
        bench.command(cmd).unwrap();
    }
    bench.until_states(&[JobStatus::Concluded; 2]);
    assert_eq!((bench.depths(), bench.headers()), ([2, 2], [false, false]));
    assert!(bench.jobs().iter().all(|job| job.error.is_none()));
    assert!(bench.contents(&disks) == before);
    assert!(bench.engine.shut_down().is_empty());
    for id in DISKS {
        qemu_img(&["check"], &bench.path(&format!("{id}-C")));
    }
}

#[test]
fn one_that_fails_ends_the_others_and_is_named() {
    let bench = Bench::new();
    let disks = bench.two_chains();
    let before = bench.contents(&disks);
    let pending = |id, size| {
        Cmd::BlockStream(BlockStream {
            auto_finalize: Some(false),
            ..stream(id, size)
        })
    };
    bench.command(pending("one", Some(2))).unwrap();
    bench.command(pending("two", None)).unwrap();
    bench.until_states(&[JobStatus::Pending; 2]);
    let (base, away) = (bench.path("two-A"), bench.path("away"));
    std::fs::rename(&base, &away).unwrap();
    bench
        .command(Cmd::JobFinalize(JobRef {
            id: "one".to_owned(),
        }))
        .unwrap();
    bench.until_states(&[JobStatus::Concluded; 2]);
    let jobs = bench.jobs();
    let error = |at: usize| jobs[at].error.clone().unwrap();
    assert!(error(1).contains("two-A"), "{}", error(1));
    let of_group = format!("Group 'g' ends: disk 'two' failed: {}", error(1));
    assert_eq!(error(0), of_group);
    assert_eq!((bench.depths(), bench.headers()), ([3, 3], [true, true]));
    assert!(bench.contents(&disks) == before);

    // Again, and better.
    std::fs::rename(&away, &base).unwrap();
    for id in DISKS {
        let id = id.to_owned();
        bench.command(Cmd::JobDismiss(JobRef { id })).unwrap();
    }
    bench.join_stream("one", Some(2)).unwrap();
    bench.join_stream("two", Some(2)).unwrap();
    bench.until_states(&[JobStatus::Concluded; 2]);
    assert_eq!(bench.depths(), [2, 2]);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn cancelling_one_ends_the_others() {
    let bench = Bench::new();
    let _disks = bench.two_chains();
    bench.events();
    bench.join_stream("one", Some(2)).unwrap();
    bench.until_states(&[JobStatus::Waiting]);
    let slow = BlockStream {
        speed: Some(1),
        ..stream("two", None)
    };
    bench.command(Cmd::BlockStream(slow)).unwrap();
    bench
        .command(Cmd::JobCancel(JobRef {
            id: "one".to_owned(),
        }))
        .unwrap();
    bench.until_states(&[JobStatus::Concluded; 2]);
    let cancelled = |id: &str, events: &[Event]| {
        events
            .iter()
            .any(|event| matches!(event, Event::JobCancelled(end) if end.device == id))
    };
    let events = bench.events();
    assert!(cancelled("one", &events) && !cancelled("two", &events));
    let errors: Vec<_> = bench.jobs().into_iter().map(|job| job.error).collect();
    let one = "Operation canceled".to_owned();
    let two = format!("Group 'g' ends: disk 'one' failed: {one}");
    assert_eq!(errors, [Some(one), Some(two)]);
    assert_eq!(bench.depths(), [3, 3]);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_group_has_as_many_jobs_as_it_was_started_with() {
    let bench = Bench::new();
    let _disks = bench.two_chains();
    let new = "Group 'g' is new: say with 'group-size' how many jobs it has, or start them in one \
               transaction";
    for size in [None, Some(0)] {
        assert_eq!(refused(bench.join_stream("one", size)), new);
    }
    let alone = BlockStream {
        group: None,
        ..stream("one", Some(2))
    };
    let needs = "'group-size' needs 'group'";
    assert_eq!(refused(bench.command(Cmd::BlockStream(alone))), needs);
    // A place that is not used is free again.
    let nowhere = BlockStream {
        base: Some("nosuch".to_owned()),
        ..stream("one", Some(2))
    };
    refused(bench.command(Cmd::BlockStream(nowhere)));
    bench.join_stream("one", Some(2)).unwrap();
    let other = "Group 'g' has 2 jobs, not 3";
    assert_eq!(refused(bench.join_stream("two", Some(3))), other);
    bench.join_stream("two", Some(2)).unwrap();
    let _three = bench.open("three", &bench.create("three"), Some(Format::Qcow2));
    let third = Cmd::BlockStream(BlockStream {
        base: None,
        ..stream("three", None)
    });
    assert_eq!(
        refused(bench.command(third)),
        "Group 'g' has all of its 2 jobs"
    );
    bench.until_states(&[JobStatus::Concluded; 2]);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_commit_of_a_top_and_one_in_the_middle_finish_together() {
    let bench = Bench::new();
    let disks = bench.two_chains();
    let before = bench.contents(&disks);
    let commit = |id: &str, top| {
        Cmd::BlockCommit(Box::new(BlockCommit {
            device: id.to_owned(),
            top,
            group: Some("g".to_owned()),
            group_size: Some(2),
            auto_dismiss: Some(false),
            ..BlockCommit::default()
        }))
    };
    bench.command(commit("one", None)).unwrap();
    bench
        .command(commit("two", Some("two-B".to_owned())))
        .unwrap();
    bench.until_states(&[JobStatus::Ready, JobStatus::Waiting]);
    assert_eq!(bench.depths(), [3, 3]);
    bench
        .command(Cmd::JobComplete(JobRef {
            id: "one".to_owned(),
        }))
        .unwrap();
    bench.until_states(&[JobStatus::Concluded; 2]);
    assert_eq!(bench.depths(), [1, 2]);
    assert!(bench.contents(&disks) == before);
    assert!(bench.engine.shut_down().is_empty());
}

fn transaction(actions: Vec<TransactionAction>, mode: CompletionMode) -> Cmd {
    let completion_mode = Some(mode);
    Cmd::Transaction(Transaction {
        actions,
        properties: Some(TransactionProperties { completion_mode }),
    })
}

fn alone(id: &str) -> BlockStream {
    BlockStream {
        group: None,
        ..stream(id, None)
    }
}

#[test]
fn a_transaction_starts_all_or_none_and_says_how_many_they_are() {
    let bench = Bench::new();
    let _disks = bench.two_chains();
    let merge = |cmd| TransactionAction::BlockStream(cmd);
    for (second, words) in [
        (merge(stream("nosuch", None)), "Cannot find device='nosuch'"),
        (merge(stream("one", None)), "Job ID 'one' already in use"),
        (
            TransactionAction::Abort(NoData {}),
            "Transaction aborted using Abort action",
        ),
    ] {
        let actions = vec![merge(stream("one", None)), second];
        let refused = refused(bench.command(transaction(actions, CompletionMode::Individual)));
        assert!(refused.contains(words), "{refused}");
        assert!(bench.jobs().is_empty());
    }
    // Named, or not.
    for member in [alone, |id: &str| stream(id, None)] {
        let bench = Bench::new();
        let _disks = bench.two_chains();
        let actions = DISKS.map(|id| merge(member(id))).to_vec();
        let cmd = transaction(actions, CompletionMode::Grouped);
        bench.command(cmd).unwrap();
        let jobs = bench.jobs();
        assert!(jobs[0].group.is_some() && jobs[0].group == jobs[1].group);
        bench.until_states(&[JobStatus::Concluded; 2]);
        assert!(bench.jobs().iter().all(|job| job.error.is_none()));
        assert_eq!(bench.depths(), [2, 2]);
        assert!(bench.engine.shut_down().is_empty());
    }
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn jobs_of_a_transaction_end_alone_unless_they_are_a_group() {
    let bench = Bench::new();
    let _disks = bench.two_chains();
    let slow = BlockStream {
        speed: Some(1),
        ..alone("two")
    };
    let actions = vec![
        TransactionAction::BlockStream(alone("one")),
        TransactionAction::BlockStream(slow),
    ];
    bench
        .command(transaction(actions, CompletionMode::Individual))
        .unwrap();
    bench.until_states(&[JobStatus::Concluded, JobStatus::Running]);
    assert_eq!(bench.depths(), [2, 3]);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_group_that_is_asked_for_twice_gets_the_same_answer() {
    let bench = Bench::new();
    let _disks = bench.two_chains();
    let actions = DISKS.map(|id| TransactionAction::BlockStream(stream(id, None)));
    let together = transaction(actions.to_vec(), CompletionMode::Individual);
    bench.command(together.clone()).unwrap();
    for _ in 0..2 {
        // Under way, and when it has ended; alone, too.
        assert_eq!(bench.command(together.clone()), Ok(Reply::Done));
        assert_eq!(bench.join_stream("one", None), Ok(Reply::Done));
        assert_eq!(bench.join_stream("two", Some(2)), Ok(Reply::Done));
        assert_eq!(bench.jobs().len(), 2);
        bench.until_states(&[JobStatus::Concluded; 2]);
    }
    let other = BlockStream {
        speed: Some(7),
        ..stream("one", None)
    };
    let other = refused(bench.command(Cmd::BlockStream(other)));
    assert_eq!(other, "Job ID 'one' already in use");
    assert!(bench.engine.shut_down().is_empty());
}
