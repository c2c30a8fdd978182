//! Disks and nodes have their names from one space: what a command names is one thing.

use std::{cell::RefCell, path::Path, rc::Rc};

use strata_graph::disk::Disk;

use super::{
    Bench,
    live::{completed, snapshot, stream},
    named_spec,
};
use crate::api::{BlockResize, Cmd, CmdError, DiskName, Reply};

fn open(bench: &Bench, path: &Path, id: &str, node_name: &str) -> Result<Disk, String> {
    let opened = bench.engine.open_disk(named_spec(id, path, node_name));
    opened.map_err(|error| error.to_string())
}

fn named_snapshot(bench: &Bench, device: &str, file: &str, name: &str) -> Cmd {
    let mut cmd = snapshot(device, &bench.path(file));
    if let Cmd::BlockdevSnapshotSync(overlay) = &mut cmd {
        overlay.snapshot_node_name = Some(name.to_owned());
    }
    cmd
}

/// Two disks, `d1` and `d2`.
fn two_disks(bench: &Bench) -> (Disk, Disk) {
    let d1 = open(bench, &bench.create("1"), "d1", "").unwrap();
    let d2 = open(bench, &bench.create("2"), "d2", "n2").unwrap();
    (d1, d2)
}

#[test]
fn an_overlay_does_not_take_the_name_of_a_disk() {
    let bench = Bench::new();
    let (d1, d2) = two_disks(&bench);
    for name in ["d1", "d2", "n2"] {
        let refused = bench.command(named_snapshot(&bench, "d1", "overlay", name));
        assert_eq!(
            refused.unwrap_err().desc,
            "New overlay node-name already in use",
            "{name}"
        );
        assert!(!bench.path("overlay").exists(), "{name}");
    }
    let resize = Cmd::BlockResize(BlockResize {
        device: Some("d2".to_owned()),
        size: 1 << 20,
        ..BlockResize::default()
    });
    bench.command(resize).unwrap();
    assert_eq!((d1.info().size, d2.info().size), (4 << 20, 1 << 20));
}

#[test]
fn names_on_the_command_line_mean_one_thing_each() {
    let bench = Bench::new();
    let (one, two) = (bench.create("1"), bench.create("2"));
    let d2 = open(&bench, &two, "d2", "n2").unwrap();
    for (id, node_name, why) in [
        ("d1", "d2", "node-name=d2 is conflicting with a device id"),
        (
            "n2",
            "",
            "Device name 'n2' conflicts with an existing node name",
        ),
        ("d2", "", "Device with id 'd2' already exists"),
        (
            "d1",
            "d1",
            "Device name 'd1' conflicts with an existing node name",
        ),
        ("d1", "n2", "the node name 'n2' is another layer's"),
    ] {
        let error = open(&bench, &one, id, node_name).err().unwrap();
        assert!(error.contains(why), "{id} {node_name}: {error}");
    }
    // What was refused has left its names to others.
    open(&bench, &one, "d1", "n1").unwrap();
    drop(d2);
}

#[test]
fn of_two_snapshots_at_once_one_has_the_name() {
    let bench = Bench::new();
    let _disks = two_disks(&bench);
    type Answers = Vec<Result<Reply, CmdError>>;
    let answers: Rc<RefCell<Answers>> = Rc::default();
    for (device, file) in [("d1", "over1"), ("d2", "over2")] {
        let answers = answers.clone();
        bench.engine.execute(
            named_snapshot(&bench, device, file, "same"),
            Box::new(move |answer| answers.borrow_mut().push(answer)),
        );
    }
    while answers.borrow().len() < 2 {
        bench.engine.poll();
    }
    let answers = answers.take();
    let refused: Vec<_> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{answers:?}");
    assert_eq!(refused[0].desc, "New overlay node-name already in use");
    assert_ne!(bench.path("over1").exists(), bench.path("over2").exists());
}

#[test]
fn a_name_is_free_again_when_its_layer_is_gone() {
    let bench = Bench::new();
    let disk = open(&bench, &bench.create("1"), "virtio0", "n1").unwrap();
    for (file, name) in [("2", "n2"), ("3", "n3")] {
        bench
            .command(named_snapshot(&bench, "virtio0", file, name))
            .unwrap();
    }
    let taken = bench.command(named_snapshot(&bench, "virtio0", "4", "n2"));
    assert_eq!(
        taken.unwrap_err().desc,
        "New overlay node-name already in use"
    );
    // A snapshot that fails gives its name up, too.
    let nowhere = bench.command(named_snapshot(&bench, "virtio0", "no/where", "n4"));
    assert!(nowhere.unwrap_err().desc.contains("Could not create"));
    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    for (file, name) in [("4", "n2"), ("5", "n1"), ("6", "n4")] {
        bench
            .command(named_snapshot(&bench, "virtio0", file, name))
            .unwrap();
    }
    drop(disk);
}

#[test]
fn what_is_missing_is_called_as_the_command_named_it() {
    let bench = Bench::new();
    let (d1, d2) = two_disks(&bench);
    for (device, node_name, said) in [
        (Some("x"), None, "device='x' nor node-name=''"),
        (None, Some("x"), "device='' nor node-name='x'"),
        (Some("x"), Some("y"), "device='x' nor node-name='y'"),
    ] {
        let name = DiskName {
            device: device.map(str::to_owned),
            node_name: node_name.map(str::to_owned),
        };
        let resize = Cmd::BlockResize(BlockResize {
            device: name.device.clone(),
            node_name: name.node_name.clone(),
            size: 1 << 20,
        });
        let mut overlay = named_snapshot(&bench, "", "overlay", "n");
        if let Cmd::BlockdevSnapshotSync(overlay) = &mut overlay {
            (overlay.device, overlay.node_name) = (name.device, name.node_name);
        }
        for cmd in [resize, overlay] {
            let error = bench.command(cmd).unwrap_err();
            assert_eq!(error.desc, format!("Cannot find {said}"));
        }
    }
    // Where there is no such disk the node name counts.
    let resize = Cmd::BlockResize(BlockResize {
        device: Some("x".to_owned()),
        node_name: Some("n2".to_owned()),
        size: 1 << 20,
    });
    bench.command(resize).unwrap();
    assert_eq!((d1.info().size, d2.info().size), (4 << 20, 1 << 20));
}

#[test]
fn layers_below_a_top_are_found_and_say_that_they_are_in_use() {
    let bench = Bench::new();
    let _disk = open(&bench, &bench.create("1"), "virtio0", "mid").unwrap();
    bench
        .command(named_snapshot(&bench, "virtio0", "2", "top"))
        .unwrap();
    let resize = Cmd::BlockResize(BlockResize {
        device: Some("mid".to_owned()),
        size: 8 << 20,
        ..BlockResize::default()
    });
    let busy = "Node 'mid' is busy: node is used as backing hd of 'top'";
    assert_eq!(bench.command(resize).unwrap_err().desc, busy);
    let again = bench.command(named_snapshot(&bench, "mid", "3", "n"));
    assert_eq!(again.unwrap_err().desc, busy);
    assert!(!bench.path("3").exists());
    let into = |job: Option<&str>| {
        let mut cmd = stream(None, 0);
        let Cmd::BlockStream(merge) = &mut cmd else {
            unreachable!("made here")
        };
        (merge.job_id, merge.device) = (job.map(str::to_owned), "mid".to_owned());
        cmd
    };
    let refused = |cmd| bench.command(cmd).unwrap_err().desc;
    assert_eq!(refused(into(None)), "Invalid job ID ''");
    let named = |base: &str| {
        let mut cmd = into(Some("job"));
        if let Cmd::BlockStream(merge) = &mut cmd {
            merge.base_node = Some(base.to_owned());
        }
        cmd
    };
    assert_eq!(
        refused(named("top")),
        "Node 'top' is not a backing image of 'mid'"
    );
    // There is nothing below it to be merged.
    assert_eq!(bench.command(into(Some("job"))), Ok(Reply::Done));
    bench.until(completed);
    bench.events();
    // By the name of its top the disk is found, and the job is named after the disk.
    let mut by_top = stream(None, 0);
    if let Cmd::BlockStream(merge) = &mut by_top {
        merge.device = "top".to_owned();
    }
    bench.command(by_top).unwrap();
    bench.until(completed);
}
