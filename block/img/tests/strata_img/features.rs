//! Features that a header tells of: made and shown as `qemu-img` does.

use crate::{Directory, read, same_output::assert_same, text};

#[test]
fn what_create_says_and_info_shows() {
    let cases = [
        "compression_type=zlib",
        "compression_type=zstd",
        "compression_type=zstd,lazy_refcounts=on,refcount_bits=1",
        "compat=0.10",
        "refcount_bits=64,cluster_size=512",
        "compression_type=zstd,extended_l2=on,refcount_bits=8",
    ];
    for options in cases {
        let directory = Directory::new();
        let args = ["create", "-f", "qcow2", "-o", options, "a.qcow2", "10M"];
        let theirs = directory.qemu(&args);
        for output in ["--output=human", "--output=json"] {
            assert_same(&directory, &["info", output, "a.qcow2"]);
        }
        let info = || {
            let info = directory.qemu(&["info", "a.qcow2"]);
            info.split_once("cluster_size").unwrap().1.to_owned()
        };
        let their_info = info();
        assert_eq!(theirs, directory.ok("strata-img", &args), "{options}");
        assert_eq!(their_info, info(), "{options}");
        directory.qemu(&["check", "a.qcow2"]);
    }
}

#[test]
fn compressed_clusters_are_of_the_type_that_was_asked_for() {
    let directory = Directory::new();
    let content: Vec<u8> = (0..200_000u32)
        .flat_map(|n| (n / 64).to_le_bytes())
        .collect();
    std::fs::write(
        directory.path("a.raw"),
        &content[..(content.len() >> 9) << 9],
    )
    .unwrap();
    for kind in ["zlib", "zstd"] {
        let options = format!("compression_type={kind}");
        let args = [
            "convert", "-c", "-O", "qcow2", "-o", &options, "a.raw", "a.qcow2",
        ];
        directory.ok("strata-img", &args);
        directory.qemu(&["compare", "-F", "qcow2", "-f", "raw", "a.raw", "a.qcow2"]);
        let check = directory.qemu(&["check", "a.qcow2"]);
        assert!(check.contains("100.00% compressed clusters"), "{check}");
        let info = directory.qemu(&["info", "a.qcow2"]);
        assert!(
            info.contains(&format!("compression type: {kind}")),
            "{info}"
        );
    }
}

#[test]
fn what_does_not_go_together_is_refused_in_the_same_words() {
    let directory = Directory::new();
    for options in [
        "compression_type=zstd,compat=0.10",
        "compression_type=lzma",
        "lazy_refcounts=on,compat=0.10",
        "refcount_bits=8,compat=0.10",
        "refcount_bits=3",
        "refcount_bits=-1",
        "refcount_bits=128",
        "refcount_bits=4294967296",
    ] {
        let args = [
            "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", "1M",
        ];
        let said = |program: &str| {
            let output = directory.run(program, &args);
            assert_eq!(output.status.code(), Some(1), "{program} {options}");
            let said = text(&output.stderr);
            said.rsplit_once(": ").unwrap().1.to_owned()
        };
        let (ours, theirs) = (said("strata-img"), said("qemu-img"));
        assert_eq!(ours, theirs, "{options}");
        assert!(!directory.path("a.qcow2").exists(), "{options}");
    }
}

/// Where a header extension's data lies.
fn extension(directory: &Directory, name: &str, kind: u32) -> usize {
    let bytes = std::fs::read(directory.path(name)).unwrap();
    let kind = kind.to_be_bytes();
    let at = bytes[..4096].windows(4).position(|bytes| bytes == kind);
    at.unwrap() + 8
}

/// What `info` says against the image: from both programs, which begin alike.
fn refusals(directory: &Directory, image: &str) -> [String; 2] {
    ["qemu-img", "strata-img"].map(|program| {
        let output = directory.run(program, &["info", "-f", "qcow2", image]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{program}: {said}");
        let last = said.lines().last().unwrap_or_default();
        let refused = format!("{program}: Could not open '{image}': ");
        let why = last.strip_prefix(&refused);
        why.unwrap_or_else(|| panic!("{said}")).to_owned()
    })
}

#[test]
fn every_unknown_feature_is_named() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
    let names = extension(&directory, "a", 0x6803_f857);
    for (n, bit, name) in [(0, 20, "feature twenty"), (1, 40, "and forty")] {
        let entry = names + n * 48;
        directory.poke("a", entry, &[0; 48]);
        directory.poke("a", entry, &[0, bit]);
        directory.poke("a", entry + 2, name.as_bytes());
    }
    for bits in [
        1u64 << 20,
        1 << 40 | 1 << 20,
        1 << 63 | 1 << 62,
        1 << 63 | 1 << 40,
    ] {
        directory.poke("a", 72, &bits.to_be_bytes());
        let [theirs, ours] = refusals(&directory, "a");
        assert_eq!(ours, theirs);
    }
}

#[test]
fn a_bitmap_that_the_specification_does_not_have_is_refused() {
    for (at, byte) in [(15, 0x11), (16, 2), (17, 64)] {
        let directory = Directory::new();
        directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
        directory.qemu(&["bitmap", "--add", "a", "b0"]);
        let bitmaps = directory.peek("a", extension(&directory, "a", 0x2385_2875) + 16);
        directory.poke("a", bitmaps as usize + at, &[byte]);
        let [theirs, ours] = refusals(&directory, "a");
        assert_eq!(theirs, "Bitmap 'b0' doesn't satisfy the constraints");
        if at < 17 {
            assert_eq!(ours, theirs);
        }
        // What is about bitmaps refuses them; QEMU opens no such image at all.
        for command in [
            "bitmap -f qcow2 --add a more",
            "bitmap -f qcow2 --clear a b0",
            "bitmap -f qcow2 --add --merge b0 a more",
            "bitmap -f qcow2 --add --merge b0 -b a -F qcow2 good more",
            "convert --bitmaps -f qcow2 -O qcow2 a copy",
            "amend -f qcow2 -o lazy_refcounts=on a",
            "measure -f qcow2 -O qcow2 a",
        ] {
            directory.qemu(&["create", "-q", "-f", "qcow2", "good", "1M"]);
            let before = [read(&directory.path("a")), read(&directory.path("good"))];
            let args: Vec<&str> = command.split(' ').collect();
            for (program, why) in [("qemu-img", &theirs), ("strata-img", &ours)] {
                let output = directory.run(program, &args);
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{command}: {said}");
                let line = format!("{program}: Could not open 'a': {why}");
                assert_eq!(said.lines().last(), Some(&*line), "{command}");
            }
            assert!(!directory.path("copy").exists());
            let after = [read(&directory.path("a")), read(&directory.path("good"))];
            assert!(before == after, "{command}");
        }
        // A check finds them.
        let checked = directory.run("strata-img", &["check", "-f", "qcow2", "a"]);
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        assert!(text(&checked.stderr).contains(&format!("ERROR {ours}")));
        // They stand in the way of no other command, which warns of them.
        for command in [
            "convert -f qcow2 -O raw a raw",
            "map -f qcow2 a",
            "compare -f qcow2 -F qcow2 a a",
        ] {
            let args: Vec<&str> = command.split(' ').collect();
            let output = directory.run("strata-img", &args);
            assert!(output.status.success(), "{command}: {output:?}");
            assert!(text(&output.stderr).contains("warning: "), "{command}");
        }
        // And there is a way out.
        if at < 17 {
            let remove = ["bitmap", "-f", "qcow2", "--remove", "a", "b0"];
            directory.ok("strata-img", &remove);
            directory.qemu(&["check", "-q", "a"]);
            directory.ok("strata-img", &["check", "-q", "a"]);
        }
    }
}

#[test]
fn of_two_backing_formats_the_last_counts() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base", "1M"]);
    let over = [
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "a", "1M",
    ];
    directory.qemu(&over);
    let first = extension(&directory, "a", 0xe279_2aca) - 8;
    let mut both = vec![0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3];
    both.extend(*b"raw\0\0\0\0\0");
    both.extend([0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 5]);
    both.extend(*b"qcow2\0\0\0");
    // In the place of the feature names, in front of the backing file's name.
    directory.poke("a", first, &both);
    directory.poke("a", first + both.len(), &[0; 8]);
    for output in ["--output=human", "--output=json"] {
        assert_same(&directory, &["info", output, "a"]);
    }
    let info = directory.ok("strata-img", &["info", "a"]);
    assert!(info.contains("backing file format: qcow2\n"), "{info}");
}
