//! Options that every command takes, and lists of what `-o` knows.

use crate::{Directory, text};

#[test]
fn where_backing_files_may_lie() {
    let directory = Directory::new();
    let (base, images) = (directory.path("base"), directory.path("images"));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&images).unwrap();
    directory.qemu(&["create", "-q", "base/base.raw", "1M"]);
    let name = base.join("base.raw").display().to_string();
    let create = ["create", "-q", "-f", "qcow2", "-b", &name, "-F", "raw"];
    directory.qemu(&[&create[..], &["images/top.qcow2"]].concat());
    let nowhere = ["--backing-folders", "/srv"];
    let there = base.display().to_string();
    let there = ["--backing-folders", &*there];
    for command in [
        &["info", "--backing-chain"][..],
        &["map"],
        &["measure"],
        &["bench", "-c", "1"],
    ] {
        let run = |more: &[&str]| {
            let args = [command, more, &["images/top.qcow2"]].concat();
            directory.run("strata-img", &args)
        };
        assert!(run(&[]).status.success(), "{command:?}");
        assert!(run(&there).status.success(), "{command:?}");
        let refused = run(&nowhere);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let said = text(&refused.stderr);
        assert!(said.contains("backing-folders"), "{said}");
    }
    let args = ["convert", "images/top.qcow2", "out"];
    let refused = directory.run("strata-img", &[&args[..], &nowhere].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(!directory.path("out").exists());
}

#[test]
fn a_backing_format_that_the_header_does_not_give() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "base.raw", "1M"]);
    let create = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw"];
    directory.qemu(&[&create[..], &["-o", "compat=0.10", "top.qcow2"]].concat());
    // The extension's magic: from now on an unknown one, which says nothing.
    let header = std::fs::read(directory.path("top.qcow2")).unwrap();
    let magic = [0xe2, 0x79, 0x2a, 0xca];
    let at = header.windows(4).position(|bytes| bytes == magic).unwrap();
    directory.poke("top.qcow2", at, &[0x12, 0x34, 0x56, 0x78]);
    let said = text(&directory.run("strata-img", &["map", "top.qcow2"]).stderr);
    assert!(said.contains("backing-format=raw"), "{said}");
    directory.ok(
        "strata-img",
        &["map", "--backing-format", "raw", "top.qcow2"],
    );
}

#[test]
fn what_there_is_not_is_said_in_one_line() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "a.raw", "1M"]);
    for (args, expected) in [
        (
            &["info", "--image-opts", "driver=raw"][..],
            "must be specified",
        ),
        (
            &["create", "-f", "qcow2", "-o", "encryption", "b", "1M"],
            "cannot be encrypted",
        ),
        (
            &[
                "create",
                "-f",
                "qcow2",
                "-o",
                "encrypt.format=luks",
                "b",
                "1M",
            ],
            "cannot be encrypted",
        ),
        (&["-T", "all", "info", "a.raw"], "--trace"),
        (&["map", "--object", "iothread,id=a", "a.raw"], "--object"),
        (
            &["convert", "--target-image-opts", "a.raw", "b"],
            "requires use of -n",
        ),
    ] {
        let output = directory.run("strata-img", args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(expected) && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn options_of_formats_are_listed() {
    let directory = Directory::new();
    for format in ["raw", "qcow2", "qed"] {
        for target in [&[][..], &["image"], &["nbd://localhost/image"]] {
            for (command, sources) in [(["create", "-f"], &[][..]), (["convert", "-O"], &["a"])] {
                let names = if target.is_empty() { &[][..] } else { sources };
                let args = [&command[..], &[format, "-o", "help"], names, target].concat();
                let theirs = directory.qemu(&args);
                let ours = directory.ok("strata-img", &args);
                // What else there is in QEMU is refused here.
                let known = |line: &&str| {
                    let not_here = ["  encrypt", "  table_size"];
                    let of_protocol = line.contains("(allowed values: off)")
                        || format == "qed" && line.contains("preallocation");
                    !of_protocol && !not_here.iter().any(|name| line.starts_with(name))
                };
                let theirs: Vec<_> = theirs.lines().filter(known).collect();
                assert_eq!(ours.lines().collect::<Vec<_>>(), theirs, "{args:?}");
            }
        }
    }
}

#[test]
fn every_command_has_an_example() {
    let directory = Directory::new();
    let help = directory.ok("strata-img", &["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| line.starts_with("  "));
    for line in commands.filter(|line| !line.starts_with("  help ")) {
        let command = line.split_whitespace().next().unwrap();
        let help = directory.ok("strata-img", &[command, "--help"]);
        let example = format!("  strata-img {command} ");
        assert!(help.contains(&example), "{help}");
    }
}
