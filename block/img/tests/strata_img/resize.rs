//! `resize`.

use std::os::unix::fs::MetadataExt;

use crate::{Directory, read, text};

#[test]
fn says_and_does_what_qemu_img_does() {
    let directory = Directory::new();
    for format in ["qcow2", "raw", "qed"] {
        for name in ["ours", "theirs"] {
            directory.qemu(&["create", "-q", "-f", format, name, "1M"]);
        }
        let cases: &[&[&str]] = &[
            &["+1M"],
            &["3M"],
            &["+0"],
            &["1M"],
            &["-1k"],
            &["0"],
            &["-8M"],
            &["abc"],
            &["--shrink", "2M"],
            &["--shrink", "-64k"],
            &["+1000"],
            &["-q", "4G"],
        ];
        for args in cases {
            let (options, size) = args.split_at(args.len() - 1);
            let run = |program: &str, name: &str| {
                let args = [&["resize", "-f", format], options, &[name], size].concat();
                directory.run(program, &args)
            };
            let ours = run("strata-img", "ours");
            let theirs = run("qemu-img", "theirs");
            assert_eq!(
                ours.status.code(),
                theirs.status.code(),
                "{format} {args:?}: {ours:?}"
            );
            assert_eq!(
                text(&ours.stdout),
                text(&theirs.stdout),
                "{format} {args:?}"
            );
            let size = |name: &str| {
                let info = directory.qemu(&["info", "-f", format, name]);
                info.lines().nth(2).unwrap().to_owned()
            };
            assert_eq!(size("ours"), size("theirs"), "{format} {args:?}");
        }
        std::fs::remove_file(directory.path("ours")).unwrap();
        std::fs::remove_file(directory.path("theirs")).unwrap();
    }
}

#[test]
fn shows_zeros_over_a_longer_backing_file() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "raw", "base.raw", "2M"]);
    directory.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 7 0 2M", "base.raw"],
    );
    for name in ["ours", "theirs"] {
        directory.qemu(&[
            "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", name, "1M",
        ]);
    }
    directory.ok("strata-img", &["resize", "-f", "qcow2", "ours", "4M"]);
    directory.qemu(&["resize", "-q", "-f", "qcow2", "theirs", "4M"]);
    let out = directory.qemu(&["compare", "-f", "qcow2", "-F", "qcow2", "ours", "theirs"]);
    assert!(out.contains("identical"), "{out}");
    directory.qemu(&["check", "-f", "qcow2", "ours"]);
}

#[test]
fn the_format_has_to_be_given() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "image", "1M"]);
    let before = read(&directory.path("image"));
    let output = directory.run("strata-img", &["resize", "image", "2M"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("add -f qcow2"), "{error}");
    let output = directory.run("strata-img", &["resize", "-f", "qcow2", "image", "512k"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--shrink"));
    assert!(read(&directory.path("image")) == before);
}

#[test]
fn what_is_added_is_preallocated_as_by_qemu() {
    let formats = [
        ("raw", "size=1M"),
        ("qcow2", "compat=0.10"),
        ("qcow2", "extended_l2=on"),
        ("qcow2", "data_file=NAME.data"),
        ("qcow2", "data_file=NAME.data,data_file_raw=on"),
        ("qed", "size=1M"),
    ];
    let modes = ["off", "metadata", "falloc", "full", "some"];
    for ((format, options), mode) in formats.iter().flat_map(|f| modes.map(|m| (*f, m))) {
        let directory = Directory::new();
        let size = |name: &str| {
            let meta = std::fs::metadata(directory.path(name)).unwrap();
            // In MiB: how tables come to lie is no promise.
            ((meta.len() + (1 << 19)) >> 20, (meta.blocks() + 1024) >> 11)
        };
        let both = |how: &[&str]| {
            let run = |program: &str, name: &str| {
                let mode = format!("--preallocation={mode}");
                let args = [&["resize", "-f", format, &mode], how].concat();
                let args = [&args[..args.len() - 1], &[name, how[how.len() - 1]]].concat();
                let output = directory.run(program, &args);
                let said = text(&output.stderr);
                assert!(said.lines().count() <= 1, "{said}");
                (output.status.code(), text(&output.stdout))
            };
            let ours = run("strata-img", "ours");
            assert_eq!(ours, run("qemu-img", "theirs"), "{format} {mode} {how:?}");
        };
        for name in ["ours", "theirs"] {
            let options = options.replace("NAME", name);
            let size = (!options.starts_with("size")).then_some("1M");
            let create = ["create", "-q", "-f", format, "-o", &options, name];
            directory.qemu(&create.into_iter().chain(size).collect::<Vec<_>>());
        }
        both(&["3M"]);
        assert_eq!(size("ours"), size("theirs"), "{format} {options} {mode}");
        both(&["--shrink", "2M"]);
        both(&["+0"]);
        both(&["+1M"]);
        let map = |name: &str| {
            let map = directory.qemu(&["map", "--output=json", "-f", format, name]);
            let map: serde_json::Value = serde_json::from_str(&map).unwrap();
            let data = |range: &serde_json::Value| {
                let bytes = range["length"].as_u64().unwrap();
                if range["data"] == true { bytes } else { 0 }
            };
            map.as_array().unwrap().iter().map(data).sum::<u64>()
        };
        assert_eq!(map("ours"), map("theirs"), "{format} {options} {mode}");
        if format != "raw" {
            directory.qemu(&["check", "-q", "-f", format, "ours"]);
        }
        let args = ["-f", format, "-F", format, "ours", "theirs"];
        directory.qemu(&[&["compare"], &args[..]].concat());
    }
}

/// Blocks that count nothing are in the way of a shorter file.
#[test]
fn a_smaller_disk_needs_no_empty_refcount_blocks() {
    for (cluster, bits) in [(512, 64), (512, 16), (4096, 64)] {
        let directory = Directory::new();
        let options = format!("cluster_size={cluster},refcount_bits={bits}");
        let create = ["create", "-q", "-f", "qcow2", "-o", &options];
        directory.qemu(&[&create[..], &["a", "4M"]].concat());
        directory.qemu_io("a", &["write -P 1 0 4M"]);
        std::fs::copy(directory.path("a"), directory.path("q")).unwrap();
        directory.qemu(&["resize", "-q", "-f", "qcow2", "--shrink", "q", "8k"]);
        directory.ok(
            "strata-img",
            &["resize", "-q", "-f", "qcow2", "--shrink", "a", "8k"],
        );
        directory.qemu(&["check", "-q", "-f", "qcow2", "a"]);
        let table = directory.peek("a", 48) as usize;
        let clusters = (directory.peek("a", 56) >> 32) as usize;
        let bytes = std::fs::read(directory.path("a")).unwrap();
        for at in (table..table + clusters * cluster).step_by(8) {
            let block = directory.peek("a", at) as usize;
            if block != 0 {
                let block = &bytes[block..block + cluster];
                assert!(block.iter().any(|byte| *byte != 0), "{options}");
            }
        }
        let len = |name| std::fs::metadata(directory.path(name)).unwrap().len();
        assert!(len("a") <= len("q"), "{} {}", len("a"), len("q"));
        // It can grow again.
        directory.ok("strata-img", &["resize", "-q", "-f", "qcow2", "a", "4M"]);
        directory.qemu_io(
            "a",
            &["read -P 1 0 8k", "read -P 0 8k 4088k", "write -P 2 0 4M"],
        );
        directory.qemu(&["check", "-q", "-f", "qcow2", "a"]);
    }
}

#[test]
fn no_disk_has_more_bytes_than_others_can_count() {
    let directory = Directory::new();
    for format in ["raw", "qcow2", "qed"] {
        directory.qemu(&["create", "-q", "-f", format, "x", "1M"]);
        for size in [
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551104",
        ] {
            for args in [
                &["create", "-q", "-f", format, "new", size][..],
                &["resize", "-q", "-f", format, "x", size],
            ] {
                let output = directory.run("strata-img", args);
                let said = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
                let whole = size.ends_with(['4', '8']) && !size.ends_with("7");
                assert!(
                    said.contains("between 0 and 9223372036854775807")
                        || (!whole && said.contains("multiple of 512"))
                        || (format == "qed" && args[0] == "resize"),
                    "{args:?}: {said}"
                );
                assert!(
                    !said.contains("convers") && said.lines().count() == 1,
                    "{said}"
                );
                assert!(!directory.path("new").exists(), "{args:?}");
            }
        }
    }
}
