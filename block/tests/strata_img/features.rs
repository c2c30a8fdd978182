//! Features that a header tells of: made and shown as `qemu-img` does.

use crate::{Folder, same_output::assert_same, text};

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
        let folder = Folder::new();
        let args = ["create", "-f", "qcow2", "-o", options, "a.qcow2", "10M"];
        let theirs = folder.qemu(&args);
        for output in ["--output=human", "--output=json"] {
            assert_same(&folder, &["info", output, "a.qcow2"]);
        }
        let info = || {
            let info = folder.qemu(&["info", "a.qcow2"]);
            info.split_once("cluster_size").unwrap().1.to_owned()
        };
        let their_info = info();
        assert_eq!(theirs, folder.ok("strata-img", &args), "{options}");
        assert_eq!(their_info, info(), "{options}");
        folder.qemu(&["check", "a.qcow2"]);
    }
}

#[test]
fn compressed_clusters_are_of_the_type_that_was_asked_for() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..200_000u32)
        .flat_map(|n| (n / 64).to_le_bytes())
        .collect();
    std::fs::write(folder.path("a.raw"), &content[..(content.len() >> 9) << 9]).unwrap();
    for kind in ["zlib", "zstd"] {
        let options = format!("compression_type={kind}");
        let args = [
            "convert", "-c", "-O", "qcow2", "-o", &options, "a.raw", "a.qcow2",
        ];
        folder.ok("strata-img", &args);
        folder.qemu(&["compare", "-F", "qcow2", "-f", "raw", "a.raw", "a.qcow2"]);
        let check = folder.qemu(&["check", "a.qcow2"]);
        assert!(check.contains("100.00% compressed clusters"), "{check}");
        let info = folder.qemu(&["info", "a.qcow2"]);
        assert!(
            info.contains(&format!("compression type: {kind}")),
            "{info}"
        );
    }
}

#[test]
fn what_does_not_go_together_is_refused_in_the_same_words() {
    let folder = Folder::new();
    for options in [
        "compression_type=zstd,compat=0.10",
        "compression_type=lzma",
        "lazy_refcounts=on,compat=0.10",
        "refcount_bits=8,compat=0.10",
        "refcount_bits=3",
    ] {
        let args = [
            "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", "1M",
        ];
        let said = |program: &str| {
            let output = folder.run(program, &args);
            assert_eq!(output.status.code(), Some(1), "{program} {options}");
            let said = text(&output.stderr);
            said.rsplit_once(": ").unwrap().1.to_owned()
        };
        let (ours, theirs) = (said("strata-img"), said("qemu-img"));
        assert_eq!(ours, theirs, "{options}");
        assert!(!folder.path("a.qcow2").exists(), "{options}");
    }
}
