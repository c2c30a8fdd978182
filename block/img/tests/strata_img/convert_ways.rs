//! `convert`: copies that the host makes, salvage, speed limits and bitmaps.

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Directory, read, text};

/// Both programs with the same arguments, the target last; what each of them said.
fn both(directory: &Directory, args: &[&str]) -> [(Option<i32>, String); 2] {
    ["qemu-img", "strata-img"].map(|program| {
        let target = format!("{program}.out");
        let output = directory.run(program, &[&["convert"], args, &[&target]].concat());
        let said = text(&output.stderr).replace(program, "PROGRAM");
        (output.status.code(), said)
    })
}

#[test]
fn the_host_copies() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "a.raw", "4M"]);
    let writes = ["-c", "write -P 1 5k 1M", "-c", "write -P 2 3000k 1k"];
    directory.ok("qemu-io", &[&["-f", "raw", "a.raw"], &writes[..]].concat());
    // A last sector that is not whole.
    let mut odd = read(&directory.path("a.raw"));
    odd.extend([3; 100]);
    std::fs::write(directory.path("odd.raw"), odd).unwrap();
    for options in ["cluster_size=4k", "cluster_size=64k,extended_l2=on"] {
        let convert = ["convert", "-O", "qcow2", "-o", options];
        directory.qemu(&[&convert[..], &["a.raw", "a.qcow2"]].concat());
        for (format, source) in [("raw", "a.raw"), ("raw", "odd.raw"), ("qcow2", "a.qcow2")] {
            for to in ["raw", "qcow2", "qed"] {
                let said = both(&directory, &["-C", "-f", format, "-O", to, source]);
                assert_eq!(said[0], said[1]);
                let compare = ["compare", "-f", format, "-F", to, source, "strata-img.out"];
                directory.qemu(&compare);
            }
        }
    }
    // Zeros that are written as data are copied as such by the host, and found otherwise.
    std::fs::write(directory.path("zeros.raw"), vec![0; 2 << 20]).unwrap();
    for (way, copied) in [("-C", true), ("-W", false)] {
        directory.ok("strata-img", &["convert", way, "zeros.raw", "zeros.out"]);
        let blocks = std::fs::metadata(directory.path("zeros.out"))
            .unwrap()
            .blocks();
        assert_eq!(blocks >= 4096, copied, "{way}: {blocks}");
    }
    for args in [
        &["-C", "-S", "4k"][..],
        &["-C", "-c", "-O", "qcow2"],
        &["-C", "--salvage"],
    ] {
        let said = both(&directory, &[args, &["-f", "raw", "a.raw"]].concat());
        assert_eq!(said[0], said[1]);
    }
}

#[test]
fn what_cannot_be_read_becomes_zeros() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "2M"]);
    directory.qemu_io("a.qcow2", &["write -P 1 0 1M"]);
    let mask = (1u64 << 56) - 1;
    let l2 = (directory.peek("a.qcow2", (directory.peek("a.qcow2", 40)) as usize) & mask) as usize;
    // The fourth cluster lies nowhere.
    directory.poke(
        "a.qcow2",
        l2 + 3 * 8,
        &0x8000_0000_0000_1234u64.to_be_bytes(),
    );
    let [(theirs, _), (ours, said)] = both(&directory, &["-f", "qcow2", "a.qcow2"]);
    assert_eq!((theirs, ours), (Some(1), Some(1)), "{said}");
    assert!(!directory.path("strata-img.out").exists());
    for options in [
        &["-O", "raw"][..],
        &["-W", "-O", "qcow2"],
        &["-c", "-O", "qcow2"],
    ] {
        std::fs::copy(directory.path("a.qcow2"), directory.path("b.qcow2")).unwrap();
        let args = [&["--salvage", "-f", "qcow2"], options, &["b.qcow2"]].concat();
        let [(_, _), (ours, said)] = both(&directory, &args);
        assert_eq!(ours, Some(0), "{said}");
        assert!(
            said.contains("196608") && said.contains("65536 bytes become zeros"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        directory.ok("strata-img", &["convert", "strata-img.out", "seen.raw"]);
        let mut expected = vec![1; 1 << 20];
        expected.resize(2 << 20, 0);
        expected[3 << 16..4 << 16].fill(0);
        assert!(read(&directory.path("seen.raw")) == expected);
    }
    let args = ["--salvage", "-q", "-f", "qcow2", "a.qcow2"];
    assert_eq!(both(&directory, &args)[1], (Some(0), String::new()));
}

/// A limit is a promise that can be kept on any machine: it is never faster.
#[test]
fn no_faster_than_the_limit() {
    let directory = Directory::new();
    std::fs::write(directory.path("a.raw"), vec![1; 3 << 20]).unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw"];
    directory.qemu(&[&create[..], &["top.qcow2"]].concat());
    directory.qemu_io("top.qcow2", &["write -P 2 0 3M"]);
    for args in [
        &["convert", "-r", "8M", "-f", "raw", "a.raw", "b.raw"][..],
        &["commit", "-r", "8M", "-f", "qcow2", "top.qcow2"],
    ] {
        let start = Instant::now();
        directory.ok("strata-img", args);
        assert!(start.elapsed() > Duration::from_millis(300), "{args:?}");
    }
    for args in [
        &["convert", "-r", "fast", "a.raw", "c.raw"][..],
        &["commit", "-r", "1x", "-f", "qcow2", "top.qcow2"],
    ] {
        for program in ["qemu-img", "strata-img"] {
            let output = directory.run(program, args);
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output.stderr).contains("Invalid rate limit"));
        }
    }
}

fn bitmaps(directory: &Directory, name: &str) -> Value {
    let info = directory.qemu(&["info", "--output=json", name]);
    let info: Value = serde_json::from_str(&info).unwrap();
    info["format-specific"]["data"]["bitmaps"].clone()
}

#[test]
fn bitmaps_come_along() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "8M"]);
    for (granularity, name) in [("512", "fine"), ("1M", "coarse"), ("64k", "off")] {
        directory.qemu(&["bitmap", "--add", "-g", granularity, "a.qcow2", name]);
    }
    directory.qemu_io("a.qcow2", &["write 1M 3k", "write 5M 100k"]);
    directory.qemu(&["bitmap", "--disable", "a.qcow2", "off"]);
    directory.qemu(&["create", "-q", "a.raw", "8M"]);
    let args = ["--bitmaps", "-f", "qcow2", "-O", "qcow2", "a.qcow2"];
    for said in both(&directory, &args) {
        assert_eq!(said, (Some(0), String::new()));
    }
    assert_eq!(
        bitmaps(&directory, "qemu-img.out"),
        bitmaps(&directory, "strata-img.out")
    );
    directory.qemu(&["check", "-q", "strata-img.out"]);
    for name in ["fine", "coarse", "off"] {
        let shown = ["qemu-img.out", "strata-img.out"].map(|image| {
            let map = format!("--map=qemu:dirty-bitmap:{name}");
            let server = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name, image, "]"];
            directory.ok("nbdinfo", &[&[&*map, "--"][..], &server].concat())
        });
        assert!(shown[0].contains("dirty"), "{}", shown[0]);
        assert_eq!(shown[0], shown[1], "{name}");
    }
    for args in [
        &["--bitmaps", "a.raw"][..],
        &["--bitmaps", "-O", "raw", "a.qcow2"],
        &["--bitmaps", "-O", "qcow2", "-o", "compat=0.10", "a.qcow2"],
        &["--bitmaps", "-O", "qcow2", "a.qcow2", "a.qcow2"],
        &["--skip-broken-bitmaps", "-O", "qcow2", "a.qcow2"],
    ] {
        std::fs::remove_file(directory.path("strata-img.out")).ok();
        let said = both(&directory, args);
        assert_eq!(said[0], said[1], "{args:?}");
        assert_eq!(said[0].0, Some(1));
        assert!(!directory.path("strata-img.out").exists());
    }
}

#[test]
fn bitmaps_that_are_out_of_date() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "8M"]);
    directory.qemu(&["bitmap", "--add", "a.qcow2", "broken"]);
    // The entry says that it is in use. Its flags follow the offset of the table and its length.
    let bytes = read(&directory.path("a.qcow2"));
    let name = bytes.windows(6).position(|bytes| bytes == b"broken");
    let entry = name.unwrap() - 24;
    directory.poke("a.qcow2", entry + 12, &3u32.to_be_bytes());
    directory.qemu(&["bitmap", "--add", "a.qcow2", "good"]);
    let args = ["-f", "qcow2", "-O", "qcow2", "a.qcow2"];
    let [theirs, ours] = both(&directory, &[&["--bitmaps"], &args[..]].concat());
    assert_eq!((theirs.0, ours.0), (Some(1), Some(1)));
    let refused = "PROGRAM: Cannot copy inconsistent bitmap 'broken'";
    assert!(theirs.1.starts_with(refused) && ours.1.starts_with(refused));
    assert_eq!(ours.1.lines().count(), 1);
    let skip = ["--bitmaps", "--skip-broken-bitmaps"];
    let said = both(&directory, &[&skip, &args[..]].concat());
    assert_eq!(said[0], said[1]);
    let kept = bitmaps(&directory, "strata-img.out");
    assert_eq!(kept, bitmaps(&directory, "qemu-img.out"));
    assert_eq!(kept.as_array().unwrap().len(), 1);
}

#[test]
fn zeros_are_left_out_where_qemu_leaves_them_out() {
    let directory = Directory::new();
    directory.qemu(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=1k",
        "a",
        "64M",
    ]);
    // Extents of zeros that are shorter than what -S asks for, alone and beside data.
    directory.qemu_io(
        "a",
        &[
            "write -q -P 0 0 64k",
            "write -q -P 1 0 1k",
            "write -q -P 1 8k 1k",
            "write -q -P 1 17k 1k",
            "write -q -P 0 65k 1k",
            "write -q -P 0 100k 3k",
            "write -q -P 1 103k 512",
            "write -q -z 104k 1k",
            "write -q -P 1 106k 1k",
        ],
    );
    for sparse in ["512", "1k", "1536", "2560", "4k", "8k", "12k", "20k"] {
        for more in [&[][..], &["-c"]] {
            let maps = ["qemu-img", "strata-img"].map(|program| {
                let fixed = [
                    "convert",
                    "-O",
                    "qcow2",
                    "-o",
                    "cluster_size=1k",
                    "-S",
                    sparse,
                ];
                directory.ok(program, &[&fixed[..], more, &["a", "b"]].concat());
                let map = directory.qemu(&["map", "--output=json", "b"]);
                let map: Vec<Value> = serde_json::from_str(&map).unwrap();
                // The pieces of data, without how they are cut.
                let data = map.iter().filter(|extent| extent["data"] == true);
                let extents = data.map(|extent| {
                    let number = |name| extent[name].as_u64().unwrap();
                    (number("start"), number("start") + number("length"))
                });
                extents.fold(Vec::new(), |mut all: Vec<(u64, u64)>, (start, end)| {
                    match all.last_mut() {
                        Some(last) if last.1 == start => last.1 = end,
                        _ => all.push((start, end)),
                    }
                    all
                })
            });
            assert_eq!(maps[0], maps[1], "-S {sparse} {more:?}");
        }
    }
}

/// With -n the target says itself what its backing file is.
#[test]
fn the_backing_format_is_asked_for_only_where_it_is_written() {
    let directory = Directory::new();
    for name in ["a.qcow2", "base.qcow2", "new.qcow2"] {
        directory.qemu(&["create", "-q", "-f", "qcow2", name, "1M"]);
    }
    directory.qemu_io("a.qcow2", &["write -P 3 0 64k"]);
    let cases: [&[&str]; 3] = [
        &["-n", "-B", "base.qcow2", "a.qcow2", "new.qcow2"],
        &["-B", "base.qcow2", "a.qcow2", "new.qcow2"],
        &["-B", "base.qcow2", "a.qcow2", "a.qcow2", "new.qcow2"],
    ];
    for case in cases {
        let convert = [&["convert", "-O", "qcow2"], case].concat();
        let said = |program| {
            let output = directory.run(program, &convert);
            let error = text(&output.stderr).replace("strata-img", "qemu-img");
            (output.status.code(), error)
        };
        assert_eq!(said("qemu-img"), said("strata-img"), "{convert:?}");
    }
}
