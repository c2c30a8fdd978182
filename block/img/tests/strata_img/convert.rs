//! `convert`: contents, space, options and errors.

use std::os::unix::fs::MetadataExt;

use crate::{Folder, read, server::Server, text};

/// A raw disk of 8 MiB with data that can be compressed, data that cannot, sectors in between, and
/// zeros in the file and as holes; and an overlay of a qcow2 copy of it.
fn images() -> Folder {
    let folder = Folder::new();
    folder.qemu(&["create", "disk.raw", "8M"]);
    let random: Vec<u8> = (0..1u32 << 19)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    std::fs::write(folder.path("random"), &random).unwrap();
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
    folder.ok("qemu-io", &args);
    folder.qemu(&["convert", "-O", "qcow2", "disk.raw", "base.qcow2"]);
    let overlay = ["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"];
    folder.qemu(&[&overlay[..], &["top.qcow2"]].concat());
    folder.qemu_io(
        "top.qcow2",
        &["write -P 5 100k 300k", "write -z 3100k 200k"],
    );
    folder
}

fn convert(folder: &Folder, args: &[&str]) {
    folder.ok("strata-img", &[&["convert"], args].concat());
}

fn assert_equal(folder: &Folder, first: (&str, &str), second: (&str, &str)) {
    let args = ["compare", "-f", first.0, "-F", second.0, first.1, second.1];
    folder.qemu(&args);
}

fn blocks(folder: &Folder, name: &str) -> u64 {
    std::fs::metadata(folder.path(name)).unwrap().blocks()
}

#[test]
fn between_all_formats() {
    let folder = images();
    convert(&folder, &["-f", "raw", "-O", "qed", "disk.raw", "disk.qed"]);
    let sources = [
        ("raw", "disk.raw"),
        ("qcow2", "top.qcow2"),
        ("qed", "disk.qed"),
    ];
    for (from, source) in sources {
        for to in ["raw", "qcow2", "qed"] {
            for more in [&[][..], &["-W", "-m", "16"], &["-S", "0", "-m", "1"]] {
                let ours = [more, &["-f", from, "-O", to, source, "ours"]].concat();
                convert(&folder, &ours);
                assert_equal(&folder, (from, source), (to, "ours"));
                if to != "raw" {
                    folder.qemu(&["check", "-f", to, "ours"]);
                }
                let theirs = [
                    &["convert"],
                    more,
                    &["-f", from, "-O", to, source, "theirs"],
                ];
                folder.qemu(&theirs.concat());
                // Not more space than theirs, give or take a few tables.
                let (ours, theirs) = (blocks(&folder, "ours"), blocks(&folder, "theirs"));
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
    let folder = images();
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
        convert(&folder, &args);
        assert_equal(&folder, ("qcow2", "top.qcow2"), ("qcow2", "small.qcow2"));
        folder.qemu(&["check", "small.qcow2"]);
        let check = folder.qemu(&["check", "--output=json", "small.qcow2"]);
        assert!(check.contains("compressed-clusters"), "{check}");
        // And back, from compressed clusters.
        convert(&folder, &["-O", "raw", "small.qcow2", "back.raw"]);
        assert_equal(&folder, ("qcow2", "top.qcow2"), ("raw", "back.raw"));
        if !options.contains("2M") {
            assert!(blocks(&folder, "small.qcow2") < blocks(&folder, "back.raw"));
        }
    }
}

#[test]
fn over_a_backing_file() {
    let folder = images();
    folder.qemu(&[
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
    folder.qemu_io(
        "long.qcow2",
        &["write -P 6 8500k 100k", "write -z 7M 1500k"],
    );
    for source in ["top.qcow2", "long.qcow2"] {
        for to in ["qcow2", "qed"] {
            let args = ["-O", to, "-B", "base.qcow2", "-F", "qcow2", source, "copy"];
            convert(&folder, &args);
            assert_equal(&folder, ("qcow2", source), (to, "copy"));
            folder.qemu(&["check", "-f", to, "copy"]);
            assert!(blocks(&folder, "copy") < 2048, "{source} {to}");
        }
        let option = "backing_file=base.qcow2,backing_fmt=qcow2";
        convert(
            &folder,
            &["-O", "qcow2", "-c", "-o", option, source, "copy"],
        );
        assert_equal(&folder, ("qcow2", source), ("qcow2", "copy"));
        assert!(blocks(&folder, "copy") < 2048, "{source}");
    }
}

#[test]
fn into_what_is_there() {
    let folder = images();
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
            let _ = std::fs::remove_file(folder.path(name));
            folder.qemu(&[&create[..], &[name, "10M"]].concat());
            folder.ok("qemu-io", &["-f", format, "-c", "write -P 9 0 10M", name]);
        }
        let args = ["convert", "-n", "-O", format, "top.qcow2"];
        folder.ok("strata-img", &[&args[..], &["ours"]].concat());
        folder.qemu(&[&args[..], &["theirs"]].concat());
        assert_equal(&folder, (format, "theirs"), (format, "ours"));
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
        folder.qemu(&[&create[..], &["data.qcow2", "8M"]].concat());
        convert(&folder, args);
        assert_equal(&folder, ("qcow2", "top.qcow2"), ("qcow2", "data.qcow2"));
    }
    assert_equal(&folder, ("qcow2", "top.qcow2"), ("raw", "data"));
    // What is said to be zero is not written.
    folder.qemu(&["create", "-q", "-f", "qcow2", "empty", "8M"]);
    let args = [
        "-n",
        "--target-is-zero",
        "-O",
        "qcow2",
        "top.qcow2",
        "empty",
    ];
    convert(&folder, &args);
    assert_equal(&folder, ("qcow2", "top.qcow2"), ("qcow2", "empty"));
    // What is there is overwritten, in another format too.
    convert(&folder, &["-O", "raw", "top.qcow2", "empty"]);
    assert_equal(&folder, ("qcow2", "top.qcow2"), ("raw", "empty"));
}

#[test]
fn internal_snapshots() {
    let folder = images();
    folder.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "4M"]);
    folder.qemu_io("a.qcow2", &["write -P 1 0 1M", "write -z 2M 128k"]);
    folder.qemu(&["snapshot", "-c", "one", "a.qcow2"]);
    folder.qemu_io("a.qcow2", &["write -P 2 512k 1M"]);
    folder.qemu(&["snapshot", "-c", "two", "a.qcow2"]);
    folder.qemu_io("a.qcow2", &["write -P 3 3M 1M"]);
    folder.qemu(&["resize", "-q", "a.qcow2", "5M"]);
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
            let output = folder.run(program, &args);
            let said = text(&output.stderr).replace(program, "PROGRAM");
            (output.status.code(), said)
        };
        let theirs = run("qemu-img", "theirs");
        assert_eq!(theirs, run("strata-img", "ours"), "{snapshot}");
        if theirs.0 == Some(0) {
            assert_equal(&folder, ("qcow2", "theirs"), ("qcow2", "ours"));
        }
        let measure = ["measure", "-O", "qcow2", "-l", snapshot, "a.qcow2"];
        let (theirs, ours) = (
            folder.run("qemu-img", &measure),
            folder.run("strata-img", &measure),
        );
        assert_eq!(theirs.status.code(), ours.status.code(), "{snapshot}");
        assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{snapshot}");
    }
}

#[test]
fn several_sources() {
    let folder = images();
    std::fs::write(folder.path("odd.raw"), vec![7; 512 * 9]).unwrap();
    for more in [&["-O", "qcow2"][..], &["-O", "qcow2", "-c"], &["-O", "raw"]] {
        let sources = ["odd.raw", "disk.raw", "odd.raw"];
        for (program, name) in [("strata-img", "ours"), ("qemu-img", "theirs")] {
            let args = [&["convert", "-f", "raw"], more, &sources, &[name]].concat();
            folder.ok(program, &args);
        }
        assert_equal(&folder, (more[1], "ours"), (more[1], "theirs"));
    }
}

#[test]
fn from_and_to_servers() {
    let folder = images();
    folder.qemu(&["create", "-q", "copy.raw", "8M"]);
    let serve = |file: &str, format: &str, socket: &str| {
        let socket = folder.path(socket);
        let (path, file) = (socket.display().to_string(), folder.path(file));
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
        convert(&folder, &args.concat());
    }
    drop(target);
    assert_equal(&folder, ("qcow2", "top.qcow2"), ("raw", "copy.raw"));
    convert(&folder, &["-c", "-O", "qcow2", &source.uri(), "copy.qcow2"]);
    assert_equal(&folder, ("qcow2", "top.qcow2"), ("qcow2", "copy.qcow2"));
}

#[test]
fn progress_and_durable_targets() {
    let folder = images();
    let args = [
        "convert", "-p", "-t", "none", "-O", "qcow2", "disk.raw", "a",
    ];
    let shown = folder.ok("strata-img", &args);
    assert!(shown.starts_with("    (0.00/100%)\r    ("), "{shown}");
    assert!(shown.ends_with("    (100.00/100%)\r\n"), "{shown}");
    assert_equal(&folder, ("raw", "disk.raw"), ("qcow2", "a"));
    let quiet = ["convert", "-p", "-q", "-O", "qcow2", "disk.raw", "a"];
    assert_eq!(folder.ok("strata-img", &quiet), "");
}

#[test]
fn wrong_options_are_refused_as_by_qemu() {
    let folder = images();
    let before = read(&folder.path("base.qcow2"));
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
            let output = folder.run(program, &args);
            let said = text(&output.stderr).replace(program, "PROGRAM");
            (output.status.code(), said)
        };
        assert_eq!(run("qemu-img"), run("strata-img"), "{case}");
        // Theirs may leave one.
        let _ = std::fs::remove_file(folder.path("new"));
        run("strata-img");
        assert!(!folder.path("new").exists(), "{case}");
    }
    assert!(before == read(&folder.path("base.qcow2")));
}

fn fails(folder: &Folder, args: &[&str]) -> String {
    let output = folder.run("strata-img", args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    said
}

#[test]
fn a_failed_copy_leaves_no_new_file_and_says_where() {
    let folder = images();
    let table =
        (folder.peek("base.qcow2", folder.peek("base.qcow2", 40) as usize) & !(1 << 63)) as usize;
    // The cluster at 3 MiB lies outside the file.
    folder.poke(
        "base.qcow2",
        table + 48 * 8,
        &0x8000_ffff_0000_0000u64.to_be_bytes(),
    );
    let said = fails(&folder, &["convert", "-O", "qcow2", "base.qcow2", "new"]);
    assert!(
        said.contains("at offset 3145728: ") || said.contains("at byte 3145728: "),
        "{said}"
    );
    assert!(!folder.path("new").exists());
    // What was there before stays, in whatever state.
    std::fs::write(folder.path("old"), b"something").unwrap();
    fails(&folder, &["convert", "-O", "qcow2", "base.qcow2", "old"]);
    assert!(folder.path("old").exists());
    let said = fails(
        &folder,
        &["convert", "-n", "-O", "qcow2", "disk.raw", "missing"],
    );
    assert!(said.contains("missing"), "{said}");
    let both = "-n --target-is-zero -O qcow2 -B base.qcow2 -F qcow2 disk.raw base.qcow2";
    let args: Vec<&str> = ["convert"].into_iter().chain(both.split(' ')).collect();
    let said = fails(&folder, &args);
    assert!(said.contains("Cannot use --target-is-zero"), "{said}");
    // Theirs makes the files and fails then.
    for existing in [false, true] {
        let option = "data_file=data";
        folder.qemu(&[
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
        let said = fails(&folder, &args);
        assert!(said.contains("an external data file"), "{said}");
    }
    folder.qemu(&["create", "-q", "short.raw", "1M"]);
    let said = fails(&folder, &["convert", "-n", "disk.raw", "short.raw"]);
    assert_eq!(said, "strata-img: output file is smaller than input file\n");
}

#[test]
fn a_source_is_never_its_own_target() {
    let folder = images();
    let before = read(&folder.path("disk.raw"));
    for args in [
        &["disk.raw", "disk.raw"][..],
        &["-n", "disk.raw", "disk.raw"],
    ] {
        let said = fails(&folder, &[&["convert"], args].concat());
        assert!(
            said.contains("is part of a source of the copy itself"),
            "{said}"
        );
    }
    assert!(before == read(&folder.path("disk.raw")));
}
