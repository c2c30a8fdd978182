//! What may be written on the command line, and how it comes back.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    os::unix::fs::symlink,
    process::Command,
};

use serde_json::Value;

use crate::{Directory, server::Server, text};

const PROGRAMS: [&str; 2] = ["qemu-img", "strata-img"];

/// What both programs say and return for the same arguments.
fn both(directory: &Directory, args: &[&str]) -> [(Option<i32>, String, String); 2] {
    PROGRAMS.map(|program| {
        let output = directory.run(program, args);
        let said = text(&output.stderr).replace(program, "PROGRAM");
        (output.status.code(), text(&output.stdout), said)
    })
}

#[test]
fn formatting_repeats_what_was_given() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "b,c.q", "1M"]);
    for (format, options) in [
        ("raw", "preallocation=off"),
        ("raw", "preallocation=falloc"),
        ("raw", "nocow=off"),
        ("qcow2", "compat=1.1"),
        ("qcow2", "compat=v3"),
        ("qcow2", "compat=v2"),
        ("qcow2", "preallocation=off,encryption=off,nocow=no"),
        (
            "qcow2",
            "preallocation=metadata,lazy_refcounts=yes,extended_l2=true",
        ),
        ("qcow2", "lazy_refcounts"),
        ("qcow2", "data_file=d,,e"),
        ("qcow2", "data_file=d,data_file_raw=off"),
        ("qcow2", "data_file=d,data_file_raw=on"),
        ("qcow2", "cluster_size=0x10000,refcount_bits=0x10"),
        (
            "qcow2",
            "cluster_size=4k,cluster_size=8k,compression_type=zstd",
        ),
        ("qcow2", "backing_fmt=qcow2,backing_file=b,,c.q,compat=0.10"),
        ("qed", "cluster_size=128k"),
        ("qed", "preallocation=off,nocow=off"),
        ("qed", "backing_fmt=qcow2,backing_file=b,,c.q"),
    ] {
        for size in ["1M", "0x100000", "1048576.0"] {
            let [theirs, ours] = both(
                &directory,
                &["create", "-f", format, "-o", options, "a", size],
            );
            assert_eq!(theirs, ours, "{format} {options}");
            assert_eq!(ours.0, Some(0), "{format} {options}: {}", ours.2);
        }
    }
    let overlay = [
        "create",
        "-f",
        "qcow2",
        "-b",
        "b,c.q",
        "-F",
        "qcow2",
        "-o",
        "compat=1.1",
        "a",
    ];
    let [theirs, ours] = both(&directory, &overlay);
    assert_eq!(theirs, ours);
}

#[test]
fn a_backing_file_has_a_name() {
    let directory = Directory::new();
    let image = ["a", "1M"];
    for options in [
        &["-f", "qcow2", "-F", "raw", "-b", ""][..],
        &["-f", "qcow2", "-F", "raw", "-b", "", "-u"],
        &["-f", "qed", "-b", ""],
        &["-f", "qcow2", "-o", "backing_file=,backing_fmt=raw"],
        &["-f", "raw", "-b", ""],
    ] {
        let [theirs, ours] = both(&directory, &[&["create"], options, &image].concat());
        assert_eq!((theirs.0, &theirs.2), (Some(1), &ours.2), "{options:?}");
        assert_eq!(ours.0, Some(1), "{options:?}");
        assert!(!directory.path("a").exists(), "{options:?}");
    }
    directory.ok("strata-img", &["create", "-q", "source", "1M"]);
    let convert = [
        "convert", "-O", "qcow2", "-F", "raw", "-B", "", "source", "a",
    ];
    assert_eq!(both(&directory, &convert)[1].0, Some(1));
}

#[test]
fn sizes_are_read_as_by_qemu() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
    for size in [
        "1024.0",
        "0x10000",
        "0X1000",
        "1.k",
        "0.5k",
        "1.5",
        "0x",
        "0x1.8k",
        "1e3",
        ".5k",
        "8E",
        "7.9E",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "0x8000000000000000",
    ] {
        for args in [
            &["create", "-q", "new", size][..],
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                "cluster_size=2M",
                "new",
                size,
            ],
            &["create", "-q", "-f", "qed", "new", size],
            &["resize", "-q", "-f", "qcow2", "--shrink", "a", size],
            &["resize", "-q", "-f", "raw", "--shrink", "raw", size],
            &[
                "resize",
                "-q",
                "-f",
                "qcow2",
                "--shrink",
                "a",
                &format!("+{size}"),
            ],
            &["measure", "-O", "qcow2", "--size", size],
            &["map", "-s", size, "a"],
            &["map", "-l", size, "a"],
            &["convert", "-S", size, "-O", "raw", "a", "new"],
            &[
                "dd",
                "-f",
                "qcow2",
                &format!("bs={size}"),
                "count=1",
                "if=a",
                "of=new",
            ],
            &[
                "dd",
                "-f",
                "qcow2",
                &format!("count={size}"),
                "if=a",
                "of=new",
            ],
        ] {
            let mut sizes = Vec::new();
            for program in PROGRAMS {
                let _ = std::fs::remove_file(directory.path("new"));
                directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
                directory.qemu(&["create", "-q", "-f", "raw", "raw", "1M"]);
                let output = directory.run(program, args);
                let said = text(&output.stderr);
                if program == "strata-img" {
                    assert!(said.lines().count() <= 1, "{args:?}: {said}");
                    // What the host or a table says of a number is nothing for people.
                    for inner in [
                        "os error",
                        "Invalid argument",
                        "outside the disk",
                        "overflow",
                    ] {
                        assert!(!said.contains(inner), "{args:?}: {said}");
                    }
                }
                let info = |name: &str| {
                    let info = directory.run("qemu-img", &["info", "--output=json", name]);
                    let info: Option<Value> = serde_json::from_slice(&info.stdout).ok();
                    info.map(|info| info["virtual-size"].clone())
                };
                let made = (output.status.code() == Some(0)).then(|| info("new"));
                sizes.push((output.status.code(), made, info("a"), info("raw")));
            }
            assert_eq!(sizes[0], sizes[1], "{args:?}");
        }
    }
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "--", "-b.q", "1M"]);
    for args in [
        &["create", "-f", "qcow2", "-b", "-b.q", "-F", "qcow2", "a"][..],
        &[
            "rebase", "-f", "qcow2", "-u", "-b", "-b.q", "-F", "qcow2", "a",
        ],
        &[
            "convert", "-O", "qcow2", "-B", "-b.q", "-F", "qcow2", "a", "c",
        ],
        &["snapshot", "-c", "-one", "a"],
        &["snapshot", "-d", "-one", "a"],
        &[
            "bitmap", "--add", "-f", "qcow2", "-g", "64k", "--", "a", "-bits",
        ],
        &[
            "bitmap", "--add", "--merge", "-bits", "-f", "qcow2", "a", "more",
        ],
        &[
            "bitmap",
            "--add",
            "--granularity",
            "64k",
            "-f",
            "qcow2",
            "a",
            "third",
        ],
    ] {
        for program in PROGRAMS {
            let output = directory.run(program, args);
            assert!(output.status.success(), "{program} {args:?}: {output:?}");
            if args[0] == "bitmap" {
                let name = args.last().unwrap();
                directory.qemu(&["bitmap", "--remove", "--", "a", name]);
                if *name == "more" || program == "qemu-img" {
                    continue;
                }
            }
            if args.contains(&"-bits") && args[0] == "bitmap" {
                directory.qemu(&["bitmap", "--add", "--", "a", "-bits"]);
            }
        }
    }
    assert!(
        directory
            .qemu(&["info", "a"])
            .contains("backing file: -b.q")
    );
}

#[test]
fn files_may_have_any_name() {
    let directory = Directory::new();
    let name = |end: &str| OsStr::from_bytes(&[b"na\xff\xfe", end.as_bytes()].concat()).to_owned();
    let run = |args: &[&OsStr]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata-img"));
        command.args(args).current_dir(directory.path("."));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    let operand = |prefix: &str, name: &OsStr| {
        let mut operand = OsString::from(prefix);
        operand.push(name);
        operand
    };
    let (image, copy, overlay) = (name(".q"), name(".raw"), name(".top"));
    let os = OsStr::new;
    run(&[os("create"), os("-f"), os("qcow2"), &image, os("1M")]);
    run(&[os("info"), &image]);
    run(&[os("info"), os("--output=json"), &image]);
    run(&[os("check"), &image]);
    run(&[os("map"), &image]);
    run(&[
        os("bitmap"),
        os("--add"),
        os("-f"),
        os("qcow2"),
        &image,
        os("bits"),
    ]);
    run(&[os("convert"), os("-O"), os("raw"), &image, &copy]);
    let (input, output) = (operand("if=", &image), operand("of=", &copy));
    run(&[os("dd"), os("-f"), os("qcow2"), &input, &output]);
    run(&[os("compare"), &image, &copy]);
    run(&[
        os("create"),
        os("-f"),
        os("qcow2"),
        os("-b"),
        os("base"),
        os("-F"),
        os("raw"),
        os("-u"),
        &overlay,
        os("1M"),
    ]);
    run(&[os("resize"), os("-f"), os("qcow2"), &image, os("2M")]);
    assert!(directory.path(".").join(&copy).exists());
}

#[test]
fn a_name_with_a_colon_needs_a_directory() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "./a:b.q", "1M"]);
    directory.qemu(&["create", "-q", "-f", "qcow2", "c", "1M"]);
    for args in [
        &["create", "-f", "qcow2", "-b", "a:b.q", "-F", "qcow2", "new"][..],
        &[
            "create", "-u", "-f", "qcow2", "-b", "a:b.q", "-F", "qcow2", "new", "1M",
        ],
        &[
            "create",
            "-f",
            "qed",
            "-o",
            "backing_file=a:b.q,backing_fmt=qcow2",
            "new",
        ],
        &["create", "-f", "qcow2", "-o", "data_file=a:b", "new", "1M"],
        &[
            "convert", "-O", "qcow2", "-B", "a:b.q", "-F", "qcow2", "c", "new",
        ],
        &[
            "rebase", "-f", "qcow2", "-u", "-b", "a:b.q", "-F", "qcow2", "c",
        ],
        &["rebase", "-f", "qcow2", "-b", "a:b.q", "-F", "qcow2", "c"],
    ] {
        let output = directory.run("strata-img", args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("write './a:b"), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(!directory.path("new").exists());
    }
    for name in ["./a:b.q", "file:a:b.q"] {
        directory.ok(
            "strata-img",
            &[
                "create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", "new",
            ],
        );
        directory.qemu(&["info", "--backing-chain", "new"]);
    }
}

#[test]
fn a_link_that_leads_nowhere_is_where_the_target_goes() {
    let directory = Directory::new();
    std::fs::write(directory.path("s"), vec![1; 1 << 20]).unwrap();
    std::fs::create_dir(directory.path("sub")).unwrap();
    for command in [
        "create -q -f qcow2 link 1M",
        "create -q -f raw link 1M",
        "create -q -f qcow2 -o data_file=link new 1M",
        "convert -O qcow2 s link",
        "convert -O raw s link",
        "dd if=s of=link",
    ] {
        let _ = std::fs::remove_file(directory.path("link"));
        let _ = std::fs::remove_file(directory.path("sub/target"));
        symlink("sub/target", directory.path("link")).unwrap();
        let args: Vec<&str> = command.split(' ').collect();
        directory.ok("strata-img", &args);
        assert!(directory.path("sub/target").is_file(), "{command}");
        assert!(directory.path("link").is_symlink(), "{command}");
    }
    // What fails takes away what it has made, and leaves the link.
    std::fs::remove_file(directory.path("sub/target")).unwrap();
    for command in [
        "convert -c -O qcow2 -o cluster_size=3 s link",
        "create -q -f raw -o preallocation=full link 7E",
        "create -q -f qed -o cluster_size=1 link 1M",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        let output = directory.run("strata-img", &args);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        assert!(directory.path("link").is_symlink(), "{command}");
        assert!(!directory.path("link").exists(), "{command}");
    }
}

#[test]
fn an_export_is_a_target_without_n() {
    let directory = Directory::new();
    std::fs::write(directory.path("s"), vec![1; 1 << 20]).unwrap();
    for (format, command) in [
        ("raw", "convert -O raw s URI"),
        ("qcow2", "convert -O qcow2 s URI"),
        ("qcow2", "dd -f raw -O qcow2 if=s of=URI"),
        ("qcow2", "create -q -f qcow2 URI 1M"),
        ("raw", "create -q -f raw URI 1M"),
    ] {
        let contents = PROGRAMS.map(|program| {
            std::fs::write(directory.path("disk"), vec![9; 3 << 20]).unwrap();
            let socket = directory.path("socket");
            let _ = std::fs::remove_file(&socket);
            let (path, file) = (
                socket.display().to_string(),
                directory.path("disk").display().to_string(),
            );
            let server = Server::start(
                &socket,
                "qemu-nbd",
                &["-t", "-f", "raw", "-k", &path, &file],
            );
            let command = command.replace("URI", &server.uri());
            let args: Vec<&str> = command.split(' ').collect();
            directory.ok(program, &args);
            drop(server);
            directory.qemu(&["convert", "-f", format, "-O", "raw", "disk", "content"]);
            std::fs::read(directory.path("content")).unwrap()
        });
        assert!(contents[0] == contents[1], "{command}");
    }
    // QED needs a file, and 4 MiB do not fit.
    for command in ["create -q -f qed URI 1M", "create -q -f raw URI 4M"] {
        std::fs::write(directory.path("disk"), vec![9; 3 << 20]).unwrap();
        let socket = directory.path("socket");
        let _ = std::fs::remove_file(&socket);
        let (path, file) = (
            socket.display().to_string(),
            directory.path("disk").display().to_string(),
        );
        let server = Server::start(
            &socket,
            "qemu-nbd",
            &["-t", "-f", "raw", "-k", &path, &file],
        );
        let command = command.replace("URI", &server.uri());
        let args: Vec<&str> = command.split(' ').collect();
        let output = directory.run("strata-img", &args);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        assert!(
            std::fs::read(directory.path("disk"))
                .unwrap()
                .iter()
                .all(|byte| *byte == 9)
        );
    }
}

#[test]
fn a_header_may_name_any_format_that_qemu_knows() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
    directory.qemu(&["create", "-q", "-f", "qed", "b", "1M"]);
    for name in [
        "vmdk",
        "vpc",
        "vdi",
        "vhdx",
        "qcow",
        "luks",
        "file",
        "nbd",
        "host_device",
        "raw",
        "qcow2",
        "dmg",
        "parallels",
        "bochs",
        "cloop",
        "foo",
        "RAW",
        "",
    ] {
        for (format, image) in [("qcow2", "a"), ("qed", "b")] {
            let args = [
                "rebase", "-u", "-f", format, "-b", "other", "-F", name, image,
            ];
            let results = PROGRAMS.map(|program| {
                directory.qemu(&["rebase", "-u", "-f", format, "-b", "", image]);
                let output = directory.run(program, &args);
                let said = text(&output.stderr).replace(program, "PROGRAM");
                let info = directory.qemu(&["info", "-f", format, image]);
                let named = info.lines().filter(|line| line.starts_with("backing"));
                (
                    output.status.code(),
                    said,
                    named.map(str::to_owned).collect::<Vec<_>>(),
                )
            });
            assert_eq!(results[0], results[1], "{name} {format}");
        }
    }
    let args = ["rebase", "-f", "qcow2", "-b", "b", "-F", "vmdk", "a"];
    let output = directory.run("strata-img", &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_check_names_its_members_in_the_same_order() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "8M"]);
    directory.qemu_io("a", &["write -q 4M 1M", "write -q 0 1M"]);
    directory.qemu(&["convert", "-c", "-O", "qcow2", "a", "c"]);
    directory.qemu(&["create", "-q", "-f", "qed", "d", "1M"]);
    // A leak and a wrong refcount.
    directory.qemu(&["convert", "-O", "qcow2", "a", "bad"]);
    let block = directory.peek("bad", directory.peek("bad", 48) as usize) as usize;
    directory.poke("bad", block + 2 * 50, &[0, 1]);
    directory.poke("bad", block + 2 * 6, &[0, 0]);
    for args in [
        &["check", "--output=json", "a"][..],
        &["check", "--output=json", "c"],
        &["check", "--output=json", "d"],
        &["check", "--output=json", "bad"],
    ] {
        let [theirs, ours] = both(&directory, args);
        assert_eq!((theirs.0, theirs.1), (ours.0, ours.1), "{args:?}");
    }
}

#[test]
fn a_bitmap_may_come_from_an_overlay() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base", "1M"]);
    directory.qemu(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top",
    ]);
    directory.qemu(&["bitmap", "--add", "top", "source"]);
    directory.qemu_io("top", &["write -q 64k 64k"]);
    for program in PROGRAMS {
        let args = [
            "bitmap", "--add", "--merge", "source", "-b", "top", "-F", "qcow2",
        ];
        let args = [&args[..], &["-f", "qcow2", "base", program]].concat();
        directory.ok(program, &args);
    }
    let info = directory.qemu(&["info", "base"]);
    assert!(info.contains("name: strata-img"), "{info}");
    directory.qemu(&["check", "-q", "base"]);
}

#[test]
fn a_file_system_has_a_limit_of_its_own() {
    let directory = Directory::new();
    for args in [
        &["create", "-q", "a", "7E"][..],
        &["resize", "-q", "-f", "raw", "b", "7E"],
    ] {
        directory.qemu(&["create", "-q", "b", "1M"]);
        let output = directory.run("strata-img", args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("the host's file system has no larger files"),
            "{said}"
        );
        assert!(!said.contains("ulimit"), "{said}");
    }
}

#[test]
fn a_target_may_be_called_a_file() {
    let directory = Directory::new();
    std::fs::write(directory.path("s"), vec![1; 1 << 20]).unwrap();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base", "1M"]);
    for command in [
        "create -f qcow2 file:a:b 1M",
        "create -f raw file:a:b 1M",
        "create -f qcow2 -b base -F qcow2 file:a:b",
        "convert -O qcow2 s file:a:b",
        "convert -n -O raw s file:s2",
        "dd if=s of=file:a:b",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        std::fs::write(directory.path("s2"), vec![2; 1 << 20]).unwrap();
        let [theirs, ours] = PROGRAMS.map(|program| {
            let _ = std::fs::remove_file(directory.path("a:b"));
            let said = directory.ok(program, &args);
            let made = std::fs::metadata(directory.path("a:b"))
                .map(|meta| meta.len())
                .ok();
            assert!(!directory.path("file:a:b").exists(), "{program} {command}");
            (
                said,
                made.is_some(),
                std::fs::read(directory.path("s2")).unwrap(),
            )
        });
        assert!(theirs == ours, "{command}");
    }
    let made_over = directory.run("strata-img", &["convert", "s", "file:s"]);
    assert!(
        text(&made_over.stderr).contains("is part of a source"),
        "{made_over:?}"
    );
}
