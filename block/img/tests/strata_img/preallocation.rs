//! `create -o preallocation=`: the same text, the same map, and as much of the host's disk.

use std::os::unix::fs::MetadataExt;

use super::Directory;

const SIZE: u64 = 8 << 20;

/// Length of a file, and whether all of the disk has a place on the host's.
fn stored(directory: &Directory, name: &str) -> (u64, bool) {
    let meta = std::fs::metadata(directory.path(name)).unwrap();
    (meta.len(), meta.blocks() * 512 >= SIZE)
}

#[test]
fn images_get_what_qemu_gives_them() {
    let directory = Directory::new();
    for (format, options) in [
        ("raw", "preallocation=falloc"),
        ("raw", "preallocation=full"),
        ("qcow2", "preallocation=metadata"),
        ("qcow2", "preallocation=falloc"),
        ("qcow2", "preallocation=full"),
        (
            "qcow2",
            "preallocation=falloc,cluster_size=4k,extended_l2=off",
        ),
        (
            "qcow2",
            "preallocation=full,cluster_size=16k,extended_l2=on",
        ),
        ("qcow2", "preallocation=full,compat=0.10"),
    ] {
        let args = ["create", "-f", format, "-o", options, "image", "8M"];
        let theirs = directory.ok("qemu-img", &args);
        let (their_len, their_room) = stored(&directory, "image");
        let map = ["map", "-f", format, "--output=json", "image"];
        let their_map = directory.ok("qemu-img", &map);
        std::fs::remove_file(directory.path("image")).unwrap();

        let ours = directory.ok("strata-img", &args);
        let (our_len, our_room) = stored(&directory, "image");
        assert_eq!(ours, theirs, "{format} {options}");
        assert_eq!(our_room, their_room, "{format} {options}");
        let falloc_or_full = options.contains("falloc") || options.contains("full");
        assert_eq!(our_room, falloc_or_full, "{format} {options}");
        assert!(
            our_len <= their_len + 65536,
            "{format} {options}: {our_len}, {their_len}"
        );
        let our_map = directory.ok("qemu-img", &map);
        // QEMU writes to the first block of a raw file.
        if format == "qcow2" {
            let (ours, theirs) = (without_offsets(&our_map), without_offsets(&their_map));
            assert_eq!(ours, theirs, "{format} {options}");
            directory.ok("qemu-img", &["check", "-f", format, "image"]);
        }
    }
}

#[test]
fn an_external_data_file_gets_it() {
    let directory = Directory::new();
    let options = "data_file=data,preallocation=falloc";
    let args = ["create", "-q", "-f", "qcow2", "-o", options, "image", "8M"];
    directory.ok("strata-img", &args);
    assert_eq!(stored(&directory, "data"), (SIZE, true));
    directory.ok("qemu-img", &["check", "-f", "qcow2", "image"]);
}

/// A map, without where the clusters lie in the file.
fn without_offsets(map: &str) -> serde_json::Value {
    let mut map: serde_json::Value = serde_json::from_str(map).unwrap();
    for extent in map.as_array_mut().unwrap() {
        extent.as_object_mut().unwrap().remove("offset");
    }
    map
}

#[test]
fn raw_has_no_metadata_to_allocate() {
    let directory = Directory::new();
    let args = [
        "create",
        "-f",
        "raw",
        "-o",
        "preallocation=metadata",
        "image",
        "8M",
    ];
    let output = directory.run("strata-img", &args);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("Unsupported preallocation mode: metadata"),
        "{said}"
    );
}
