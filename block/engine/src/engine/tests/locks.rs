//! The locks of a disk's layers, as other programs meet them while layers come and go.

use std::{path::Path, process::Command};

use strata_graph::Format;

use super::{
    Bench,
    live::{completed, snapshot, stream},
};

/// What others may do with an image, found out by trying.
#[derive(Debug, PartialEq, Eq)]
enum Free {
    Nothing,
    Reading,
    Writing,
}

fn free(path: &Path) -> Free {
    let works = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("lock"), "{said}");
        output.status.success()
    };
    let read = works("qemu-img", &["info", "-f", "qcow2"]);
    let write = works("qemu-io", &["-f", "qcow2", "-c", "write -q 1M 64k"]);
    match (read, write) {
        (false, false) => Free::Nothing,
        (true, false) => Free::Reading,
        (true, true) => Free::Writing,
        (false, true) => panic!("writers may not be let in where readers are not"),
    }
}

#[test]
fn locks_follow_the_layers() {
    let bench = Bench::new();
    let (a, b, c) = (bench.create("A"), bench.path("B"), bench.path("C"));
    let disk = bench.open("virtio0", &a, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![1; 65536]).unwrap();
    assert_eq!(free(&a), Free::Nothing);
    bench.command(snapshot("virtio0", &b)).unwrap();
    assert_eq!((free(&a), free(&b)), (Free::Reading, Free::Nothing));
    bench.command(snapshot("virtio0", &c)).unwrap();
    assert_eq!(free(&b), Free::Reading);
    bench.command(stream(Some("A"), 0)).unwrap();
    bench.until(completed);
    assert_eq!(
        (free(&a), free(&b), free(&c)),
        (Free::Reading, Free::Writing, Free::Nothing)
    );
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!((free(&a), free(&c)), (Free::Writing, Free::Writing));
    drop(disk);
}

#[test]
fn a_backing_file_is_shared_between_disks() {
    let bench = Bench::new();
    let a = bench.create("A");
    let [one, two] = ["one", "two"].map(|name| {
        let path = bench.path(name);
        super::bad_input::overlay(&path, "A", Some("qcow2"));
        path
    });
    let _one = bench.open("virtio0", &one, Some(Format::Qcow2)).unwrap();
    let _two = bench.open("virtio1", &two, Some(Format::Qcow2)).unwrap();
    let error = bench.open("virtio2", &a, Some(Format::Qcow2));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("Failed to get \"write\" lock"), "{error}");
    // An overlay that one disk writes to is not one for another.
    let error = bench.open("virtio2", &one, Some(Format::Qcow2));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("This process has it open"), "{error}");
}
