//! How jobs and errors end, and what long zeroes cost.

use std::{cell::Cell, rc::Rc};

use strata_exec::{Queue, mem::SgList};
use strata_format::qcow2::CreateOptions;
use strata_graph::{Format, disk::Op};

use super::{
    Bench, create_image,
    live::{completed, snapshot, stream},
};
use crate::api::{Cmd, Event, Reply};

#[test]
fn an_end_sleeps_while_a_job_comes_to_its_own() {
    let bench = Bench::new();
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    bench.write(&disk, 0, vec![1; 65536]).unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    let (engine, exec) = (bench.engine.clone(), bench.engine.exec().clone());
    let root = engine.find_disk("virtio0").unwrap().root();
    // The job waits for this range, as it may for a slow host.
    let (held, release) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (holds, released) = (held.clone(), release.clone());
    let top = root.clone();
    exec.spawn(Queue::Guest, async move {
        let _range = root.enter_exclusive(0, 65536).await.unwrap();
        holds.set(true);
        std::future::poll_fn(|_| {
            if released.get() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    });
    while !held.get() {
        bench.engine.poll();
    }
    bench.command(stream(None, 0)).unwrap();
    // On a busy host it may rest before.
    while top.waiting() == 0 {
        bench.engine.poll();
    }
    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    engine.begin_to_shut_down(move |errors| {
        assert!(errors.is_empty(), "{errors:?}");
        end.set(true);
    });
    // The event loop gets to sleep: nothing is ready until the range is left.
    let mut turns = 0;
    while turns < 10_000 && bench.engine.poll().more_work_now {
        turns += 1;
    }
    assert!(turns < 10_000, "the end spins");
    assert!(!ended.get());
    // Questions are answered, and nothing new begins.
    assert!(bench.command(Cmd::QueryBlockJobs).is_ok());
    let late = bench.command(snapshot("virtio0", &bench.path("C")));
    assert_eq!(late.unwrap_err().desc, "The disks are being closed");
    release.set(true);
    exec.drop_tasks();
}

/// The speed limit is for bytes that are copied: this would take years otherwise.
#[test]
fn long_zeroes_are_not_copied() {
    for format in [Format::Qcow2, Format::Qed] {
        let bench = Bench::new();
        let (base, exec) = (bench.path("base"), bench.engine.exec().clone());
        let (size, made, path) = (1 << 40, exec.clone(), base.clone());
        let options = CreateOptions {
            size,
            cluster_size: 2 << 20,
            ..CreateOptions::default()
        };
        exec.block_on(async move { create_image(&made, &path, options).await.unwrap() });
        let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
        bench.write(&disk, 0, vec![1; 65536]).unwrap();
        bench
            .command(snapshot("virtio0", &bench.path("mid")))
            .unwrap();
        let zeroes = Op::WriteZeroes { unmap: false };
        bench
            .run(&disk, zeroes, 0, 8 << 30, SgList::empty())
            .unwrap();
        let mut top = snapshot("virtio0", &bench.path("top"));
        if let Cmd::BlockdevSnapshotSync(overlay) = &mut top {
            overlay.format = Some(format.to_string());
        }
        bench.command(top).unwrap();
        bench.command(stream(Some("base"), 1)).unwrap();
        let mut polls = 0;
        while !completed(&bench.events.borrow()) {
            bench.engine.poll();
            polls += 1;
            assert!(polls < 20_000_000, "{format}: zeroes are charged");
        }
        let failed = |event: Event| matches!(event, Event::JobCompleted(_, Some(_)));
        assert!(!bench.events().into_iter().any(failed));
        assert_eq!(bench.read(&disk, 0, 65536), [0; 65536]);
        assert_eq!(bench.read(&disk, (8 << 30) - 512, 512), [0; 512]);
    }
}

#[test]
fn errors_are_forgotten_when_the_machine_goes_on() {
    let bench = Bench::new();
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    let guest_disk = bench.engine.find_disk("virtio0").unwrap();
    let status = || match bench.command(Cmd::QueryBlock).unwrap() {
        Reply::Block(disks) => disks[0].io_status.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    guest_disk.root().set_read_only();
    bench.write(&disk, 0, vec![1; 512]).unwrap_err();
    assert_eq!(status(), "failed");
    bench.engine.reset_io_status();
    assert_eq!(status(), "ok");
}
