//! Every command, also where it fails: the same output and exit codes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Directory, read, server::Server, text};

/// Images of every kind, small ones.
fn images() -> Directory {
    let directory = Directory::new();
    let create = |args: &[&str]| {
        directory.qemu(&[&["create", "-q"], args].concat());
    };
    let io = |format: &str, name: &str, commands: &[&str]| {
        let mut args = vec!["-f", format, name];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        directory.ok("qemu-io", &args);
    };
    create(&["base.raw", "3M"]);
    io("raw", "base.raw", &["write -P 1 64k 128k"]);
    create(&["-f", "qcow2", "-b", "base.raw", "-F", "raw", "low.qcow2"]);
    io("qcow2", "low.qcow2", &["write -P 2 512k 200k"]);
    create(&["-f", "qcow2", "-b", "low.qcow2", "-F", "qcow2", "top.qcow2"]);
    io(
        "qcow2",
        "top.qcow2",
        &["write -P 3 100k 30k", "write -z 192k 64k"],
    );
    create(&["-f", "qcow2", "snaps.qcow2", "4M"]);
    for (write, snapshot) in [
        ("write -P 4 100k 30k", "one"),
        ("write -P 5 90k 3k", "two 2"),
    ] {
        io("qcow2", "snaps.qcow2", &[write]);
        directory.qemu(&["snapshot", "-c", snapshot, "snaps.qcow2"]);
    }
    directory.qemu(&["resize", "-q", "snaps.qcow2", "8M"]);
    directory.qemu(&["snapshot", "-c", "1", "snaps.qcow2"]);
    for (name, options) in [
        ("data.qcow2", "data_file=data.raw"),
        ("rawdata.qcow2", "data_file=rawdata.raw,data_file_raw=on"),
        ("extended.qcow2", "extended_l2=on,compression_type=zstd"),
        (
            "small.qcow2",
            "cluster_size=512,refcount_bits=1,lazy_refcounts=on",
        ),
        ("old.qcow2", "compat=0.10"),
    ] {
        create(&["-f", "qcow2", "-o", options, name, "2M"]);
        io("qcow2", name, &["write -P 6 200k 3k"]);
    }
    let zstd = [
        "convert",
        "-c",
        "-O",
        "qcow2",
        "-o",
        "compression_type=zstd",
    ];
    directory.qemu(&[&zstd[..], &["top.qcow2", "zstd.qcow2"]].concat());
    create(&["-f", "qcow2", "bits.qcow2", "8M"]);
    directory.qemu(&["bitmap", "--add", "bits.qcow2", "one"]);
    directory.qemu(&["bitmap", "--add", "--disable", "bits.qcow2", "two"]);
    create(&["-f", "qed", "a.qed", "4M"]);
    io("qed", "a.qed", &["write -P 7 1M 100k"]);
    create(&["-f", "qed", "-b", "base.raw", "-F", "raw", "b.qed"]);
    let orphan = ["-u", "-b", "missing.raw", "-F", "raw"];
    create(&[&["-f", "qcow2"], &orphan[..], &["orphan.qcow2", "1M"]].concat());
    std::fs::write(directory.path("empty.raw"), []).unwrap();
    std::fs::write(directory.path("odd.raw"), [8; 700]).unwrap();
    std::fs::create_dir(directory.path("directory")).unwrap();
    directory
}

/// A directory with the same files.
fn copy(directory: &Directory) -> Directory {
    let other = Directory::new();
    for name in names(directory) {
        if directory.path(&name).is_dir() {
            std::fs::create_dir(other.path(&name)).unwrap();
        } else {
            std::fs::copy(directory.path(&name), other.path(&name)).unwrap();
        }
    }
    other
}

fn names(directory: &Directory) -> Vec<String> {
    let entries = std::fs::read_dir(directory.path("")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a run says that scripts go by.
#[derive(Debug, PartialEq)]
struct Said {
    code: Option<i32>,
    json: Option<Value>,
    text: String,
    /// Something on standard error.
    error: bool,
}

fn run(directory: &Directory, program: &str, args: &[&str]) -> Said {
    let output = directory.run(program, args);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    if program == "strata-img" {
        // Where it shrinks an image it says two things, as qemu-img does.
        let lines = error
            .lines()
            .filter(|line| !line.contains("warning: Shrinking"));
        assert!(lines.count() <= 1, "{args:?}: {error}");
    }
    let json = args.contains(&"--output=json");
    let json = json.then(|| serde_json::from_str(&out).ok()).flatten();
    Said {
        code: output.status.code(),
        text: if json.is_some() { String::new() } else { out },
        json,
        error: !error.is_empty(),
    }
}

/// Returns the exit code.
fn assert_same(theirs: &Directory, ours: &Directory, args: &str) -> Option<i32> {
    let args: Vec<&str> = args.split(' ').collect();
    let expected = run(theirs, "qemu-img", &args);
    assert_eq!(expected, run(ours, "strata-img", &args), "{args:?}");
    expected.code
}

#[test]
fn commands_that_read() {
    let directory = images();
    let commands = [
        "info --output=json",
        "info",
        "info --backing-chain --output=json",
        "map --output=json",
        "map",
        "map -s 100k -l 1M",
        "measure --output=json -O qcow2",
        "measure -O qcow2 -o preallocation=full,cluster_size=4k",
    ];
    for name in names(&directory) {
        for command in commands {
            assert_same(&directory, &directory, &format!("{command} {name}"));
        }
        // These do not need its backing file here.
        if name != "orphan.qcow2" {
            for command in ["check", "check --output=json", "snapshot -l"] {
                assert_same(&directory, &directory, &format!("{command} {name}"));
            }
        }
    }
    for args in [
        "info missing",
        "info -f qcow2 base.raw",
        "info -f qed top.qcow2",
        "check missing",
        "check -q -f qcow2 top.qcow2",
        "check -T unsafe top.qcow2",
        "check -T wrong top.qcow2",
        "map -s 99G top.qcow2",
        "map -l 0 top.qcow2",
        "map --output=json -s 1 -l 1 top.qcow2",
        "map -f qcow2 base.raw",
        "measure -O raw odd.raw",
        "measure -O qcow2 -o data_file=x top.qcow2",
        "measure --size 1M -O qcow2 -o wrong=1",
        "measure --size much -O qcow2",
        "measure -l one -O qcow2 snaps.qcow2",
        "measure -l snapshot.id=1 -O qcow2 snaps.qcow2",
        "measure -l none -O qcow2 snaps.qcow2",
        "measure -f qcow2 -O raw base.raw",
        "compare base.raw low.qcow2",
        "compare -q base.raw low.qcow2",
        "compare base.raw b.qed",
        "compare -s small.qcow2 old.qcow2",
        "compare empty.raw empty.raw",
        "compare empty.raw base.raw",
        "compare odd.raw base.raw",
        "compare base.raw missing",
        "compare -f qcow2 base.raw base.raw",
        "compare orphan.qcow2 base.raw",
        "snapshot -l missing",
        "bench -c many base.raw",
        "bench -c 1 missing",
    ] {
        assert_same(&directory, &directory, args);
    }
}

#[test]
fn commands_that_write() {
    let directory = images();
    for args in [
        "create x 1M",
        "create x 0",
        "create x",
        "create directory 1M",
        "create no/x 1M",
        "create -f qcow2 x 0",
        "create -f qcow2 x much",
        "create -f qcow2 x 100E",
        "create -f qcow2 x 1M 2M",
        "create -f qcow2 -o size=1M x",
        "create -f qcow2 -o size=1M x 2M",
        "create -f qcow2 -o lazy_refcounts x 1M",
        "create -f qcow2 -o lazy_refcounts=perhaps x 1M",
        "create -f qcow2 -o cluster_size=3 x 1M",
        "create -f qcow2 -o refcount_bits=3 x 1M",
        "create -f qcow2 -o wrong=1 x 1M",
        "create -f qcow2 -b low.qcow2 -F qcow2 x",
        "create -f qcow2 -b low.qcow2 -F qcow2 x 1M",
        "create -f qcow2 -b empty.raw -F raw x",
        "create -f qcow2 -b base.raw -F qcow2 x",
        "create -f qcow2 -b base.raw x",
        "create -f qcow2 -b missing -F raw x",
        "create -f qcow2 -b orphan.qcow2 -F qcow2 x",
        "create -f qcow2 -u -b missing -F raw x 1M",
        "create -f qcow2 -u -b missing -F raw x",
        "create -f qcow2 -o backing_file=base.raw,backing_fmt=raw x",
        "create -b base.raw -F raw x 1M",
        "create -f qed x 1M",
        "convert -O qcow2 top.qcow2 x",
        "convert -O qcow2 empty.raw x",
        "convert odd.raw x",
        "convert base.raw low.qcow2 x",
        "convert -l one -O qcow2 snaps.qcow2 x",
        "convert -l none snaps.qcow2 x",
        "convert -l one base.raw x",
        "convert -f qcow2 base.raw x",
        "convert missing x",
        "convert orphan.qcow2 x",
        "convert base.raw directory",
        "convert -n base.raw missing",
        "convert -n base.raw odd.raw",
        "convert -O qcow2 -B missing -F raw base.raw x",
        "convert -O qcow2 -o wrong=1 base.raw x",
        "convert -c -O qcow2 -o data_file=x.raw base.raw x",
        "commit -f qcow2 top.qcow2",
        "commit -f qcow2 -d top.qcow2",
        "commit -f qcow2 -q -b base.raw top.qcow2",
        "commit -f qcow2 -r 1G top.qcow2",
        "commit -f qcow2 -b missing top.qcow2",
        "commit -f qcow2 -t wrong top.qcow2",
        "commit -f qcow2 old.qcow2",
        "commit -f qcow2 missing",
        "commit -f qcow2 orphan.qcow2",
        "commit -f raw base.raw",
        "commit -f qed b.qed",
        "rebase -f qcow2 -b base.raw -F raw top.qcow2",
        "rebase -f qcow2 -u -b missing -F raw top.qcow2",
        "rebase -f qcow2 -b missing -F raw top.qcow2",
        "rebase -f qcow2 -b base.raw top.qcow2",
        "rebase -f qcow2 -b base.raw -F raw orphan.qcow2",
        "rebase -f qcow2 -b base.raw -F raw rawdata.qcow2",
        "rebase -f qcow2 -T wrong -b base.raw -F raw top.qcow2",
        "rebase -f qcow2 top.qcow2",
        "rebase -f raw -b odd.raw -F raw base.raw",
        "resize -f raw base.raw +1M",
        "resize -f raw base.raw 1M",
        "resize -f raw --shrink base.raw 1M",
        "resize -f raw empty.raw 1M",
        "resize -f raw base.raw much",
        "resize -f qcow2 base.raw 4M",
        "resize -f qcow2 missing 4M",
        "resize -f qcow2 -q snaps.qcow2 +1M",
        "resize -f qcow2 --shrink snaps.qcow2 1M",
        "resize -f qcow2 bits.qcow2 16M",
        "resize -f qcow2 rawdata.qcow2 5M",
        "resize -f qed --shrink a.qed 1M",
        "snapshot -c new snaps.qcow2",
        "snapshot -U -c new snaps.qcow2",
        "snapshot -a one snaps.qcow2",
        "snapshot -d one snaps.qcow2",
        "snapshot -a none snaps.qcow2",
        "snapshot -d none snaps.qcow2",
        "snapshot -c new base.raw",
        "snapshot -c new data.qcow2",
        "snapshot -c new missing",
        "check -f qcow2 -r all top.qcow2",
        "check -f raw -r all base.raw",
        "check -U -f qcow2 -r all top.qcow2",
        "bench -U -w -c 1 -f raw base.raw",
        "rebase -U -f qcow2 -b base.raw -F raw top.qcow2",
        "check -f qcow2 -r leaks missing",
        "bitmap -f qcow2 --add bits.qcow2 three",
        "bitmap -f qcow2 --add bits.qcow2 one",
    ] {
        let (theirs, ours) = (copy(&directory), copy(&directory));
        let code = assert_same(&theirs, &ours, args);
        let mut seen = [&theirs, &ours].map(|directory| shown(directory, args));
        if code != Some(0) && !seen[1].contains_key("x") {
            // An image that could not be made; qemu-img leaves what there is of it.
            seen[0].remove("x");
        }
        assert!(seen[0] == seen[1], "{args}");
    }
}

/// What the images that a command names show to QEMU; of those that it cannot read nothing.
fn shown(directory: &Directory, args: &str) -> BTreeMap<String, Option<Vec<u8>>> {
    let show = |name: &str| {
        let shown = directory.path("shown");
        let convert = ["convert", "-O", "raw", name, "shown"];
        let converted = directory.run("qemu-img", &convert).status.success();
        let content = converted.then(|| read(&shown));
        let _ = std::fs::remove_file(shown);
        (name.to_owned(), content)
    };
    let files = args
        .split(' ')
        .filter(|name| directory.path(name).is_file());
    files.map(show).collect()
}

#[test]
fn images_on_servers() {
    let directory = images();
    let socket = directory.path("socket");
    let image = directory.path("snaps.qcow2");
    let server = [
        "-t",
        "-e",
        "9",
        "-f",
        "raw",
        "-k",
        socket.to_str().unwrap(),
        image.to_str().unwrap(),
    ];
    let server = Server::start(&socket, "qemu-nbd", &server);
    // As QEMU writes it when it shows names.
    let uri = server.uri().replace("///", "//");
    for args in [
        "info --output=json URI",
        "info --backing-chain URI",
        "check --output=json URI",
        "map --output=json URI",
        "map URI",
        "measure -O qcow2 URI",
        "compare URI snaps.qcow2",
        "compare -f raw URI snaps.qcow2",
        "snapshot -l URI",
        "convert -l one -O raw URI out.raw",
        "commit -f qcow2 URI",
        "resize -f raw URI 99M",
    ] {
        assert_same(&directory, &directory, &args.replace("URI", &uri));
    }
}

#[test]
fn files_that_cannot_be_written() {
    let directory = images();
    let full = "/dev/full";
    for args in [
        format!("create {full} 1M"),
        format!("convert base.raw {full}"),
        format!("create -f qcow2 {full} 1M"),
    ] {
        assert_same(&directory, &directory, &args);
    }
}
