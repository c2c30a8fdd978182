//! Disks that are opened and closed while others are used.

use serde_json::json;
use strata_exec::mem::SgList;
use strata_graph::{Format, disk::Op};

use super::{
    Bench,
    live::{snapshot, stream},
};
use crate::api::{BlockJobRef, BlockdevAdd, BlockdevDel, Cmd, Reply};

fn add(options: &serde_json::Value) -> Cmd {
    Cmd::BlockdevAdd(BlockdevAdd(options.as_object().unwrap().clone()))
}

fn delete(name: &str) -> Cmd {
    Cmd::BlockdevDel(BlockdevDel {
        node_name: name.to_owned(),
    })
}

fn shown(bench: &Bench) -> Vec<(String, Option<String>)> {
    match bench.command(Cmd::QueryBlock).unwrap() {
        Reply::Block(disks) => disks
            .into_iter()
            .map(|disk| (disk.device, disk.qdev))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_opened_given_to_a_device_and_closed() {
    let bench = Bench::new();
    let path = bench.create("A");
    let options = json!({
        "driver": "qcow2",
        "node-name": "n0",
        "discard": "unmap",
        "file": {"driver": "file", "filename": path},
    });
    bench.command(add(&options)).unwrap();
    assert_eq!(shown(&bench), [], "no device has it");
    assert!(bench.engine.find_disk("n0").is_some());
    // Its name and its file are taken.
    let error = bench.command(add(&options)).unwrap_err();
    assert!(error.desc.contains("n0"), "{}", error.desc);
    let mut second = options.clone();
    second["node-name"] = json!("n1");
    let error = bench.command(add(&second)).unwrap_err();
    assert!(error.desc.contains("lock"), "{}", error.desc);

    let (d0, d1) = ("/machine/peripheral/d0/virtio-backend", "/machine/other");
    let disk = bench.engine.give_to_device("n0", d0).unwrap();
    assert_eq!(shown(&bench), [(String::new(), Some(d0.to_owned()))]);
    let error = bench.engine.give_to_device("n0", d1).err().unwrap();
    assert!(error.desc.contains("it's in use"), "{}", error.desc);
    bench.write(&disk, 0, vec![3; 65536]).unwrap();
    let error = bench.command(delete("n0")).unwrap_err();
    assert_eq!(error.desc, "Block device n0 is in use");
    bench.engine.take_from_device(d0);
    drop(disk);
    bench.command(delete("n0")).unwrap();
    assert!(bench.engine.find_disk("n0").is_none());
    // What a device has written is there when it is opened again, under the same name.
    bench.command(add(&options)).unwrap();
    let disk = bench.engine.give_to_device("n0", d1).unwrap();
    assert_eq!(bench.read(&disk, 0, 65536), [3; 65536]);
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn what_is_held_is_not_closed() {
    let bench = Bench::new();
    let path = bench.create("A");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![1; 1 << 20]).unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    bench.command(stream(None, 1)).unwrap();
    let job = BlockJobRef {
        device: "virtio0".to_owned(),
    };
    bench.command(Cmd::BlockJobPause(job)).unwrap();
    let result = std::rc::Rc::new(std::cell::RefCell::new(None));
    let slot = result.clone();
    let engine = &bench.engine;
    let reply = Box::new(move |deleted| *slot.borrow_mut() = Some(deleted));
    engine.drive_del("virtio0".to_owned(), reply);
    while result.borrow().is_none() {
        engine.poll();
    }
    let error = result.take().unwrap().unwrap_err();
    assert!(
        error.desc.contains("in use by block job: stream"),
        "{}",
        error.desc
    );
    assert_eq!(shown(&bench).len(), 1);
    // Nor is what the command line has opened closed as if it were a client's.
    let node = engine
        .find_disk("virtio0")
        .unwrap()
        .root()
        .name()
        .to_owned();
    let error = bench.command(delete(&node)).unwrap_err();
    assert!(
        error.desc.contains("is not owned by the monitor"),
        "{}",
        error.desc
    );
}

#[test]
fn options_that_make_no_image_are_refused() {
    let bench = Bench::new();
    let path = bench.create("A");
    for (options, why) in [
        (json!({"driver": "raw"}), "'node-name' must be specified"),
        (json!({"node-name": "n"}), "Parameter 'driver' is missing"),
        (
            json!({"node-name": "n", "driver": "vmdk", "file": {"driver": "file", "filename": path}}),
            "Unknown driver 'vmdk'",
        ),
        (
            json!({"node-name": "n", "driver": "qcow2", "file": "other"}),
            "",
        ),
        (
            json!({"node-name": "n", "driver": "qcow2", "discard": "maybe",
                   "file": {"driver": "file", "filename": path}}),
            "Parameter 'discard' does not accept value 'maybe'",
        ),
        (
            json!({"node-name": "n", "driver": "qcow2", "colour": "red",
                   "file": {"driver": "file", "filename": path}}),
            "colour",
        ),
        (
            json!({"node-name": "n", "driver": "qcow2",
                   "file": {"driver": "file", "filename": "/no/such/file"}}),
            "/no/such/file",
        ),
    ] {
        let error = bench.command(add(&options)).unwrap_err();
        assert!(error.desc.contains(why), "{options}: {}", error.desc);
    }
    // The name is free again.
    let right = json!({"node-name": "n", "driver": "qcow2",
                       "file": {"driver": "file", "filename": path}});
    bench.command(add(&right)).unwrap();
}
