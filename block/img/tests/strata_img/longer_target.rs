//! Targets that are longer than what is copied: what lies behind its end stays, as with `qemu-img`.

use std::fs;

use crate::{Directory, device::Device, read, server::Server};

/// Bytes of the sources: a whole number of clusters, a whole number of sectors only, not even that,
/// and none.
const SOURCES: [usize; 4] = [1 << 20, (1 << 20) + 512, 1_000_000, 0];
/// Bytes of the targets.
const TARGET: usize = 3 << 20;

/// Sources `0.raw` to `3.raw`, with data, zeros and a hole at the end; an overlay of the first
/// (`top.qcow2`); and a base for targets.
fn images() -> Directory {
    let directory = Directory::new();
    for (n, len) in SOURCES.into_iter().enumerate() {
        let mut bytes = vec![0; len];
        let data = len / 3;
        bytes[..data].fill(1);
        fs::write(directory.path(&format!("{n}.raw")), &bytes).unwrap();
    }
    let overlay = ["create", "-q", "-f", "qcow2", "-b", "0.raw", "-F", "raw"];
    directory.qemu(&[&overlay[..], &["top.qcow2", "1M"]].concat());
    directory.qemu_io("top.qcow2", &["write -q -P 2 100k 64k"]);
    fs::write(directory.path("base.raw"), vec![8; TARGET]).unwrap();
    directory
}

/// Makes a target full of data; with a backing file where `overlay` says so.
fn make_target(directory: &Directory, name: &str, format: &str, overlay: bool) {
    let _ = fs::remove_file(directory.path(name));
    let mut create = vec!["create", "-q", "-f", format];
    if overlay {
        create.extend(["-b", "base.raw", "-F", "raw"]);
    }
    let size = TARGET.to_string();
    directory.qemu(&[&create[..], &[name, &size]].concat());
    // An overlay lets its base show through at the end.
    let written = if overlay {
        "write -q -P 9 0 2M"
    } else {
        "write -q -P 9 0 3M"
    };
    directory.ok("qemu-io", &["-f", format, "-c", written, name]);
}

fn content(directory: &Directory, format: &str, name: &str) -> Vec<u8> {
    let convert = ["convert", "-f", format, "-O", "raw", name, "content"];
    directory.qemu(&convert);
    read(&directory.path("content"))
}

#[test]
fn what_lies_behind_the_copy_stays() {
    let directory = images();
    let mut sources: Vec<(&str, String)> = (0..SOURCES.len())
        .map(|n| ("raw", format!("{n}.raw")))
        .collect();
    sources.push(("qcow2", "top.qcow2".to_owned()));
    for (format, overlay) in [
        ("raw", false),
        ("qcow2", false),
        ("qed", false),
        ("qcow2", true),
        ("qed", true),
    ] {
        for more in [
            &[][..],
            &["-S", "0"],
            &["-S", "64k", "-W"],
            &["-C"],
            &["--target-is-zero"],
        ] {
            for (from, source) in &sources {
                let said = [("qemu-img", "theirs"), ("strata-img", "ours")].map(|(program, to)| {
                    make_target(&directory, to, format, overlay);
                    let fixed = ["convert", "-n", "-f", from, "-O", format, source, to];
                    let output = directory.run(program, &[&fixed[..2], more, &fixed[2..]].concat());
                    (output.status.code(), content(&directory, format, to))
                });
                assert_eq!(said[0].0, said[1].0, "{format} {more:?} {source}");
                assert!(
                    said[0].1 == said[1].1,
                    "{format} {overlay} {more:?} {source}"
                );
                assert_eq!(said[1].1[TARGET - 1], if overlay { 8 } else { 9 });
            }
        }
    }
}

#[test]
fn what_lies_behind_the_copy_stays_over_a_backing_file() {
    let directory = images();
    for source in ["top.qcow2", "0.raw"] {
        let contents = [("qemu-img", "theirs"), ("strata-img", "ours")].map(|(program, to)| {
            make_target(&directory, to, "qcow2", true);
            let backing = ["-B", "base.raw", "-F", "raw"];
            let args = [
                &["convert", "-n"],
                &backing[..],
                &["-O", "qcow2", source, to],
            ];
            directory.ok(program, &args.concat());
            content(&directory, "qcow2", to)
        });
        assert!(contents[0] == contents[1], "{source}");
    }
}

#[test]
fn what_lies_behind_the_copy_stays_on_servers() {
    let directory = images();
    for (n, more) in [&["-n"][..], &["-n", "-S", "0"]].into_iter().enumerate() {
        for source in ["0.raw", "2.raw", "3.raw"] {
            let contents = ["qemu-img", "strata-img"].map(|program| {
                make_target(&directory, "target", "raw", false);
                let socket = directory.path(&format!("socket{n}{source}{program}"));
                let path = socket.display().to_string();
                let args = ["-t", "-f", "raw", "-k", &path, "target"];
                let target = directory.path("target").display().to_string();
                let args = [&args[..5], &[&target]].concat();
                let server = Server::start(&socket, "qemu-nbd", &args);
                let uri = server.uri();
                let convert = [&["convert"], more, &["-f", "raw", source, &uri]].concat();
                directory.ok(program, &convert);
                drop(server);
                read(&directory.path("target"))
            });
            assert!(contents[0] == contents[1], "{more:?} {source}");
            assert_eq!(contents[1][TARGET - 1], 9);
        }
    }
}

#[test]
fn what_lies_behind_the_copy_stays_on_devices() {
    let directory = images();
    let Some(device) = Device::new(&directory, "disk", TARGET as u64) else {
        return;
    };
    for command in ["convert", "convert -n", "convert -n -S 0", "dd"] {
        for source in ["0.raw", "1.raw", "2.raw", "3.raw", "top.qcow2"] {
            let contents = ["qemu-img", "strata-img"].map(|program| {
                device.fill(9);
                let format = if source.ends_with("raw") {
                    "raw"
                } else {
                    "qcow2"
                };
                let (input, output) = (format!("if={source}"), format!("of={}", device.path()));
                let mut args: Vec<&str> = command.split(' ').collect();
                args.extend(["-f", format, "-O", "raw"]);
                args.extend(match command {
                    "dd" => [&*input, &*output],
                    _ => [source, device.path()],
                });
                directory.ok(program, &args);
                device.content()
            });
            assert!(contents[0] == contents[1], "{command} {source}");
            assert_eq!(contents[1][TARGET - 1], 9, "{command} {source}");
        }
    }
}

#[test]
fn a_compressed_copy_ends_where_its_source_does() {
    let directory = images();
    for (source, overlay) in [
        ("1.raw", true),
        ("2.raw", true),
        ("2.raw", false),
        ("3.raw", true),
    ] {
        make_target(&directory, "plain", "qcow2", overlay);
        make_target(&directory, "packed", "qcow2", overlay);
        let convert = ["convert", "-n", "-f", "raw", "-O", "qcow2"];
        // The reference does not compress the last cluster, but gives up there.
        directory.qemu(&[&convert[..], &[source, "plain"]].concat());
        directory.ok(
            "strata-img",
            &[&convert[..], &["-c", source, "packed"]].concat(),
        );
        let contents = ["plain", "packed"].map(|name| content(&directory, "qcow2", name));
        assert!(contents[0] == contents[1], "{source} {overlay}");
        directory.qemu(&["check", "-q", "packed"]);
    }
}
