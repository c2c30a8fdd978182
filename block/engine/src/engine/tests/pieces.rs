//! A merge copies several pieces of the disk at a time, and none while it is paused.

use strata_exec::mem::SgList;
use strata_format::qcow2::CreateOptions;
use strata_graph::{Format, create_image, disk::Op};

use super::{
    Bench,
    live::{completed, qemu_img, snapshot, stream},
};
use crate::api::{Cmd, Event, JobRef, JobStatus};

const MIB: usize = 1 << 20;

fn pieces(bench: &Bench) -> usize {
    let tasks = bench.engine.exec().tasks().into_iter();
    let pieces = tasks.filter(|task| task.name == "a piece of job virtio0");
    pieces.count()
}

#[test]
fn a_merge_has_several_pieces_under_way_and_none_while_it_is_paused() {
    let bench = Bench::new();
    let (base, exec) = (bench.path("A"), bench.engine.exec().clone());
    let (made, image) = (exec.clone(), base.clone());
    let options = CreateOptions {
        size: 32 * MIB as u64,
        ..CreateOptions::default()
    };
    exec.block_on(async move { create_image(&made, &image, options).await.unwrap() });
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let bytes: Vec<u8> = (0..32 * MIB / 4)
        .flat_map(|at| (at as u32 * 7 + 1).to_le_bytes())
        .collect();
    bench.write(&disk, 0, bytes.clone()).unwrap();
    let top = bench.path("B");
    bench.command(snapshot("virtio0", &top)).unwrap();
    bench.events();
    bench.command(stream(None, 0)).unwrap();
    let mut most = 0;
    while most < 2 {
        assert!(!completed(&bench.events.borrow()), "{most} at a time");
        bench.engine.poll();
        most = most.max(pieces(&bench));
    }
    let job = || JobRef {
        id: "virtio0".to_owned(),
    };
    bench.command(Cmd::JobPause(job())).unwrap();
    let paused = |event: &Event| matches!(event, Event::JobStatusChange { status, .. } if *status == JobStatus::Paused);
    bench.until(|events| events.iter().any(paused));
    assert_eq!(pieces(&bench), 0);
    // A guest has its turn meanwhile, and what it has written is not overwritten.
    bench.write(&disk, 31 * MIB as u64, vec![9; 65536]).unwrap();
    bench.command(Cmd::JobResume(job())).unwrap();
    bench.until(completed);
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    let mut expected = bytes;
    expected[31 * MIB..][..65536].fill(9);
    assert!(bench.read(&disk, 0, 32 * MIB) == expected);
    let info = qemu_img(&["info", "-U", "--backing-chain"], &top);
    assert_eq!(info.matches("image: ").count(), 1, "{info}");
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check"], &top);
}
