//! `convert`: contents, space, options and errors.

use std::os::unix::fs::MetadataExt;

use crate::{Directory, read, server::Server, text};

/// A raw disk of 8 MiB with data that can be compressed, data that cannot, sectors in between, and
/// zeros in the file and as holes; and an overlay of a qcow2 copy of it.
fn images() -> Directory {
    let directory = Directory::new();
    directory.qemu(&["create", "disk.raw", "8M"]);
    let random: Vec<u8> = (0..1u32 << 19)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    std::fs::write(directory.path("random"), &random).unwrap();
    let writes = [
        "write -s random 1M 1M",
        "write -P 1 3M 700k",
        "write -P 2 5000k 512",
        "write -P 3 5004k 4k",
        "write -P 0 6M 1M",
        "write -P 4 8191k 1k",
    ];
    let mut args = vec!["-f", "raw", "disk.raw"];
    args.extend(writes.iter().flat_map(|write| ["-c", write]));
    directory.ok("qemu-io", &args);
    directory.qemu(&["convert", "-O", "qcow2", "disk.raw", "base.qcow2"]);
    let overlay = ["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"];
    directory.qemu(&[&overlay[..], &["top.qcow2"]].concat());
    directory.qemu_io(
        "top.qcow2",
        &["write -P 5 100k 300k", "write -z 3100k 200k"],
    );
    directory
}

fn convert(directory: &Directory, args: &[&str]) {
    directory.ok("strata-img", &[&["convert"], args].concat());
}

fn assert_equal(directory: &Directory, first: (&str, &str), second: (&str, &str)) {
    let args = ["compare", "-f", first.0, "-F", second.0, first.1, second.1];
    directory.qemu(&args);
}

fn blocks(directory: &Directory, name: &str) -> u64 {
    std::fs::metadata(directory.path(name)).unwrap().blocks()
}

#[test]
fn between_all_formats() {
    let directory = images();
    convert(
        &directory,
        &["-f", "raw", "-O", "qed", "disk.raw", "disk.qed"],
    );
    let sources = [
        ("raw", "disk.raw"),
        ("qcow2", "top.qcow2"),
        ("qed", "disk.qed"),
    ];
    for (from, source) in sources {
        for to in ["raw", "qcow2", "qed"] {
            for more in [&[][..], &["-W", "-m", "16"], &["-S", "0", "-m", "1"]] {
                let ours = [more, &["-f", from, "-O", to, source, "ours"]].concat();
                convert(&directory, &ours);
                assert_equal(&directory, (from, source), (to, "ours"));
                if to != "raw" {
                    directory.qemu(&["check", "-f", to, "ours"]);
                }
                let theirs = [
                    &["convert"],
                    more,
                    &["-f", from, "-O", to, source, "theirs"],
                ];
                directory.qemu(&theirs.concat());
                // Not more space than theirs, give or take a few tables.
                let (ours, theirs) = (blocks(&directory, "ours"), blocks(&directory, "theirs"));
                assert!(
                    ours <= theirs + 1024,
                    "{from} {to} {more:?} {ours} {theirs}"
                );
                if more.contains(&"0") {
                    assert!(ours * 512 >= 8 << 20, "{ours}");
                }
            }
        }
    }
}

#[test]
fn compressed() {
    let directory = images();
    for options in [
        "cluster_size=64k",
        "cluster_size=4k",
        "cluster_size=2M,compat=0.10",
    ] {
        let args = [
            "-c",
            "-O",
            "qcow2",
            "-o",
            options,
            "top.qcow2",
            "small.qcow2",
        ];
        convert(&directory, &args);
        assert_equal(&directory, ("qcow2", "top.qcow2"), ("qcow2", "small.qcow2"));
        directory.qemu(&["check", "small.qcow2"]);
        let check = directory.qemu(&["check", "--output=json", "small.qcow2"]);
        assert!(check.contains("compressed-clusters"), "{check}");
        // And back, from compressed clusters.
        convert(&directory, &["-O", "raw", "small.qcow2", "back.raw"]);
        assert_equal(&directory, ("qcow2", "top.qcow2"), ("raw", "back.raw"));
        if !options.contains("2M") {
            assert!(blocks(&directory, "small.qcow2") < blocks(&directory, "back.raw"));
        }
    }
}

#[test]
fn over_a_backing_file() {
    let directory = images();
    directory.qemu(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "long.qcow2",
        "9M",
    ]);
    directory.qemu_io(
        "long.qcow2",
        &["write -P 6 8500k 100k", "write -z 7M 1500k"],
    );
    for source in ["top.qcow2", "long.qcow2"] {
        for to in ["qcow2", "qed"] {
            let args = ["-O", to, "-B", "base.qcow2", "-F", "qcow2", source, "copy"];
            convert(&directory, &args);
            assert_equal(&directory, ("qcow2", source), (to, "copy"));
            directory.qemu(&["check", "-f", to, "copy"]);
            assert!(blocks(&directory, "copy") < 2048, "{source} {to}");
        }
        let option = "backing_file=base.qcow2,backing_fmt=qcow2";
        convert(
            &directory,
            &["-O", "qcow2", "-c", "-o", option, source, "copy"],
        );
        assert_equal(&directory, ("qcow2", source), ("qcow2", "copy"));
        assert!(blocks(&directory, "copy") < 2048, "{source}");
    }
}

#[test]
fn into_what_is_there() {
    let directory = images();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", "compat=1.1"),
        ("qcow2", "compat=0.10"),
        ("qed", ""),
    ] {
        let mut create = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            create.extend(["-o", options]);
        }
        for name in ["ours", "theirs"] {
            let _ = std::fs::remove_file(directory.path(name));
            directory.qemu(&[&create[..], &[name, "10M"]].concat());
            directory.ok("qemu-io", &["-f", format, "-c", "write -P 9 0 10M", name]);
        }
        let args = ["convert", "-n", "-O", format, "top.qcow2"];
        directory.ok("strata-img", &[&args[..], &["ours"]].concat());
        directory.qemu(&[&args[..], &["theirs"]].concat());
        assert_equal(&directory, (format, "theirs"), (format, "ours"));
    }
    // With an external data file.
    for args in [
        &["-n", "-O", "qcow2", "top.qcow2", "data.qcow2"][..],
        &[
            "-O",
            "qcow2",
            "-o",
            "data_file=data,data_file_raw=on",
            "top.qcow2",
            "data.qcow2",
        ],
    ] {
        let create = ["create", "-q", "-f", "qcow2", "-o", "data_file=data"];
        directory.qemu(&[&create[..], &["data.qcow2", "8M"]].concat());
        convert(&directory, args);
        assert_equal(&directory, ("qcow2", "top.qcow2"), ("qcow2", "data.qcow2"));
    }
    assert_equal(&directory, ("qcow2", "top.qcow2"), ("raw", "data"));
    // What is said to be zero is not written.
    directory.qemu(&["create", "-q", "-f", "qcow2", "empty", "8M"]);
    let args = [
        "-n",
        "--target-is-zero",
        "-O",
        "qcow2",
        "top.qcow2",
        "empty",
    ];
    convert(&directory, &args);
    assert_equal(&directory, ("qcow2", "top.qcow2"), ("qcow2", "empty"));
    // What is there is overwritten, in another format too.
    convert(&directory, &["-O", "raw", "top.qcow2", "empty"]);
    assert_equal(&directory, ("qcow2", "top.qcow2"), ("raw", "empty"));
}

#[test]
fn internal_snapshots() {
    let directory = images();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "4M"]);
    directory.qemu_io("a.qcow2", &["write -P 1 0 1M", "write -z 2M 128k"]);
    directory.qemu(&["snapshot", "-c", "one", "a.qcow2"]);
    directory.qemu_io("a.qcow2", &["write -P 2 512k 1M"]);
    directory.qemu(&["snapshot", "-c", "two", "a.qcow2"]);
    directory.qemu_io("a.qcow2", &["write -P 3 3M 1M"]);
    directory.qemu(&["resize", "-q", "a.qcow2", "5M"]);
    for snapshot in [
        "one",
        "2",
        "snapshot.name=one",
        "snapshot.id=2,snapshot.name=two",
        "snapshot.id=2,snapshot.name=one",
        "three",
    ] {
        let run = |program: &str, out: &str| {
            let args = ["convert", "-O", "qcow2", "-l", snapshot, "a.qcow2", out];
            let output = directory.run(program, &args);
            let said = text(&output.stderr).replace(program, "PROGRAM");
            (output.status.code(), said)
        };
        let theirs = run("qemu-img", "theirs");
        assert_eq!(theirs, run("strata-img", "ours"), "{snapshot}");
        if theirs.0 == Some(0) {
            assert_equal(&directory, ("qcow2", "theirs"), ("qcow2", "ours"));
        }
        let measure = ["measure", "-O", "qcow2", "-l", snapshot, "a.qcow2"];
        let (theirs, ours) = (
            directory.run("qemu-img", &measure),
            directory.run("strata-img", &measure),
        );
        assert_eq!(theirs.status.code(), ours.status.code(), "{snapshot}");
        assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{snapshot}");
    }
}

#[test]
fn several_sources() {
    let directory = images();
    std::fs::write(directory.path("odd.raw"), vec![7; 512 * 9]).unwrap();
    for more in [&["-O", "qcow2"][..], &["-O", "qcow2", "-c"], &["-O", "raw"]] {
        let sources = ["odd.raw", "disk.raw", "odd.raw"];
        for (program, name) in [("strata-img", "ours"), ("qemu-img", "theirs")] {
            let args = [&["convert", "-f", "raw"], more, &sources, &[name]].concat();
            directory.ok(program, &args);
        }
        assert_equal(&directory, (more[1], "ours"), (more[1], "theirs"));
    }
}

#[test]
fn from_and_to_servers() {
    let directory = images();
    directory.qemu(&["create", "-q", "copy.raw", "8M"]);
    let serve = |file: &str, format: &str, socket: &str| {
        let socket = directory.path(socket);
        let (path, file) = (socket.display().to_string(), directory.path(file));
        let file = file.display().to_string();
        let fixed = ["-t", "-e", "8", "-f", format, "-k", &path];
        let read_only = (format == "qcow2").then_some("-r");
        let args: Vec<&str> = fixed.into_iter().chain(read_only).chain([&*file]).collect();
        Server::start(&socket, "qemu-nbd", &args)
    };
    let source = serve("top.qcow2", "qcow2", "source");
    let target = serve("copy.raw", "raw", "target");
    for more in [&["-m", "16", "-W"][..], &[]] {
        let args = [
            more,
            &["-n", "-f", "raw", "-O", "raw", &source.uri(), &target.uri()],
        ];
        convert(&directory, &args.concat());
    }
    drop(target);
    assert_equal(&directory, ("qcow2", "top.qcow2"), ("raw", "copy.raw"));
    convert(
        &directory,
        &["-c", "-O", "qcow2", &source.uri(), "copy.qcow2"],
    );
    assert_equal(&directory, ("qcow2", "top.qcow2"), ("qcow2", "copy.qcow2"));
}

#[test]
fn progress_and_durable_targets() {
    let directory = images();
    let args = [
        "convert", "-p", "-t", "none", "-O", "qcow2", "disk.raw", "a",
    ];
    let shown = directory.ok("strata-img", &args);
    assert!(shown.starts_with("    (0.00/100%)\r    ("), "{shown}");
    assert!(shown.ends_with("    (100.00/100%)\r\n"), "{shown}");
    assert_equal(&directory, ("raw", "disk.raw"), ("qcow2", "a"));
    let quiet = ["convert", "-p", "-q", "-O", "qcow2", "disk.raw", "a"];
    assert_eq!(directory.ok("strata-img", &quiet), "");
}

#[test]
fn wrong_options_are_refused_as_by_qemu() {
    let directory = images();
    let before = read(&directory.path("base.qcow2"));
    let cases = [
        "-c disk.raw new",
        "-m 0 disk.raw new",
        "-m 17 disk.raw new",
        "-m many disk.raw new",
        "-S 100 disk.raw new",
        "-S 32M disk.raw new",
        "-t fast disk.raw new",
        "-T fast disk.raw new",
        "--target-is-zero disk.raw new",
        "-n -o size=1M -O qcow2 disk.raw base.qcow2",
        "-B base.qcow2 -F qcow2 disk.raw new",
        "-O qcow2 -B base.qcow2 disk.raw new",
        "-O qcow2 -B base.qcow2 -F qcow2 top.qcow2 top.qcow2 new",
        "-O qcow2 -c -o preallocation=metadata disk.raw new",
        "-O qcow2 -o cluster_size=3 disk.raw new",
        "-O qcow2 -o color=red disk.raw new",
        "-l one disk.raw new",
        "-l one base.qcow2 top.qcow2 new",
    ];
    for case in cases {
        let args: Vec<&str> = ["convert"].into_iter().chain(case.split(' ')).collect();
        let run = |program: &str| {
            let output = directory.run(program, &args);
            let said = text(&output.stderr).replace(program, "PROGRAM");
            (output.status.code(), said)
        };
        assert_eq!(run("qemu-img"), run("strata-img"), "{case}");
        // Theirs may leave one.
        let _ = std::fs::remove_file(directory.path("new"));
        run("strata-img");
        assert!(!directory.path("new").exists(), "{case}");
    }
    assert!(before == read(&directory.path("base.qcow2")));
}

fn fails(directory: &Directory, args: &[&str]) -> String {
    let output = directory.run("strata-img", args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    said
}

#[test]
fn a_failed_copy_leaves_no_new_file_and_says_where() {
    let directory = images();
    let table = (directory.peek("base.qcow2", directory.peek("base.qcow2", 40) as usize)
        & !(1 << 63)) as usize;
    // The cluster at 3 MiB lies outside the file.
    directory.poke(
        "base.qcow2",
        table + 48 * 8,
        &0x8000_ffff_0000_0000u64.to_be_bytes(),
    );
    let said = fails(&directory, &["convert", "-O", "qcow2", "base.qcow2", "new"]);
    assert!(
        said.contains("at offset 3145728: ") || said.contains("at byte 3145728: "),
        "{said}"
    );
    assert!(!directory.path("new").exists());
    // What was there before stays, in whatever state.
    std::fs::write(directory.path("old"), b"something").unwrap();
    fails(&directory, &["convert", "-O", "qcow2", "base.qcow2", "old"]);
    assert!(directory.path("old").exists());
    let said = fails(
        &directory,
        &["convert", "-n", "-O", "qcow2", "disk.raw", "missing"],
    );
    assert!(said.contains("missing"), "{said}");
    let both = "-n --target-is-zero -O qcow2 -B base.qcow2 -F qcow2 disk.raw base.qcow2";
    let args: Vec<&str> = ["convert"].into_iter().chain(both.split(' ')).collect();
    let said = fails(&directory, &args);
    assert!(said.contains("Cannot use --target-is-zero"), "{said}");
    // Theirs makes the files and fails then.
    for existing in [false, true] {
        let option = "data_file=data";
        directory.qemu(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            option,
            "data.qcow2",
            "8M",
        ]);
        let mut args = vec!["convert", "-c", "-O", "qcow2", "disk.raw", "data.qcow2"];
        if existing {
            args.push("-n");
        } else {
            args.extend(["-o", option]);
        }
        let said = fails(&directory, &args);
        assert!(said.contains("an external data file"), "{said}");
    }
    directory.qemu(&["create", "-q", "short.raw", "1M"]);
    let said = fails(&directory, &["convert", "-n", "disk.raw", "short.raw"]);
    assert_eq!(said, "strata-img: output file is smaller than input file\n");
}

#[test]
fn a_source_is_never_its_own_target() {
    let directory = images();
    let before = read(&directory.path("disk.raw"));
    for args in [
        &["disk.raw", "disk.raw"][..],
        &["-n", "disk.raw", "disk.raw"],
    ] {
        let said = fails(&directory, &[&["convert"], args].concat());
        assert!(
            said.contains("is part of a source of the copy itself"),
            "{said}"
        );
    }
    assert!(before == read(&directory.path("disk.raw")));
}
