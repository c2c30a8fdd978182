//! What commands say of images that they cannot open or make: in the words of the reference, where
//! it has one line for it.

use crate::{Directory, text};

/// What both programs say for the same arguments, which they refuse.
fn refused(directory: &Directory, args: &[&str]) -> [String; 2] {
    ["qemu-img", "strata-img"].map(|program| {
        let output = directory.run(program, args);
        assert_eq!(output.status.code(), Some(1), "{program} {args:?}");
        text(&output.stderr).replace(program, "PROGRAM")
    })
}

#[test]
fn images_that_cannot_be_opened_are_refused_alike() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "big", "1M"]);
    // A disk of an exabyte.
    directory.poke("big", 24, &(1u64 << 60).to_be_bytes());
    directory.qemu(&["create", "-q", "-f", "qcow2", "new", "1M"]);
    directory.poke("new", 72, &(1u64 << 50).to_be_bytes());
    directory.qemu(&["create", "-q", "-f", "qcow2", "good", "1M"]);
    for image in ["big", "new"] {
        for command in [
            "info -f qcow2 X",
            "map -f qcow2 X",
            "check -f qcow2 X",
            "check -f qcow2 -r all X",
            "snapshot -l X",
            "convert -f qcow2 -O raw X copy",
            "convert -n -f qcow2 -O qcow2 good X",
            "measure -f qcow2 -O raw X",
            "dd -f qcow2 -O raw if=X of=copy",
            "bench -f qcow2 X",
            "resize -f qcow2 X 2M",
            "commit -f qcow2 X",
            "amend -f qcow2 -o lazy_refcounts=on X",
            "rebase -f qcow2 -u -b good -F qcow2 X",
            "bitmap -f qcow2 --add X bits",
            "bitmap -f qcow2 --merge bits -b X -F qcow2 good bits",
        ] {
            let command = command.replace('X', image);
            let args: Vec<&str> = command.split(' ').collect();
            let [theirs, ours] = refused(&directory, &args);
            assert_eq!(ours, theirs, "{command}");
            let beginning = format!("PROGRAM: Could not open '{image}': ");
            assert!(ours.starts_with(&beginning), "{command}: {ours}");
        }
    }
    for command in ["info missing", "map missing", "convert missing copy"] {
        let args: Vec<&str> = command.split(' ').collect();
        let why = "PROGRAM: Could not open 'missing': No such file or directory\n";
        assert_eq!(refused(&directory, &args)[1], why, "{command}");
    }
}

#[test]
fn a_disk_that_is_too_large_is_refused_alike() {
    let directory = Directory::new();
    for (options, size) in [("cluster_size=64k", "1E"), ("cluster_size=512", "1T")] {
        let args = ["create", "-q", "-f", "qcow2", "-o", options, "image", size];
        let [theirs, ours] = refused(&directory, &args);
        assert_eq!(ours, theirs);
        assert!(!directory.path("image").exists());
    }
}
