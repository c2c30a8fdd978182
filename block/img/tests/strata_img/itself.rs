//! Nothing is made in a file that the command needs: not in its backing files, sources and data
//! files, whatever they are called.

use std::{fs, os::unix::fs::symlink};

use crate::{Directory, device::Device, read, text};

/// `base.raw`, `base.qcow2` on it with an external data file, `mid.qcow2` and `mid.qed` on that,
/// each with data.
fn images() -> Directory {
    let directory = Directory::new();
    fs::write(directory.path("base.raw"), vec![1; 1 << 20]).unwrap();
    let create = |args: &[&str]| drop(directory.qemu(&[&["create", "-q"], args].concat()));
    let options = "data_file=base.data,backing_file=base.raw,backing_fmt=raw";
    create(&["-f", "qcow2", "-o", options, "base.qcow2"]);
    create(&[
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "mid.qcow2",
    ]);
    create(&["-f", "qed", "-b", "base.raw", "-F", "raw", "mid.qed"]);
    directory.qemu_io("base.qcow2", &["write -q -P 2 0 128k"]);
    directory.qemu_io("mid.qcow2", &["write -q -P 3 256k 64k"]);
    fs::create_dir(directory.path("sub")).unwrap();
    symlink("base.raw", directory.path("soft.raw")).unwrap();
    symlink("mid.qcow2", directory.path("soft.qcow2")).unwrap();
    symlink("base.qcow2", directory.path("soft.base")).unwrap();
    fs::hard_link(directory.path("base.raw"), directory.path("hard.raw")).unwrap();
    fs::hard_link(directory.path("mid.qcow2"), directory.path("hard.qcow2")).unwrap();
    fs::hard_link(directory.path("base.data"), directory.path("hard.data")).unwrap();
    fs::hard_link(directory.path("mid.qed"), directory.path("hard.qed")).unwrap();
    directory
}

const FILES: [&str; 5] = [
    "base.raw",
    "base.data",
    "base.qcow2",
    "mid.qcow2",
    "mid.qed",
];

/// Runs commands, each of which has to fail in one line that names `word`, and to change nothing.
fn refused(commands: &[(&str, &str)]) {
    let directory = images();
    let before = FILES.map(|name| read(&directory.path(name)));
    for (command, word) in commands {
        let args: Vec<&str> = command.split_whitespace().collect();
        let output = directory.run("strata-img", &args);
        let said = text(&output.stderr);
        for (name, before) in FILES.into_iter().zip(&before) {
            assert!(
                *before == read(&directory.path(name)),
                "{command}: {name} is not what it was"
            );
        }
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        assert!(said.contains(word), "{command}: {said}");
        let new = directory.path("new");
        assert!(!new.exists(), "{command}: made a new file: {said}");
    }
}

#[test]
fn an_overlay_is_not_made_in_a_file_of_its_chain() {
    let word = "itself: nothing was written";
    let mut commands = Vec::new();
    // Every name of every file below.
    for target in [
        "mid.qcow2",
        "./mid.qcow2",
        "sub/../mid.qcow2",
        "soft.qcow2",
        "hard.qcow2",
        "base.qcow2",
        "soft.base",
        "base.data",
        "hard.data",
        "base.raw",
        "soft.raw",
        "hard.raw",
    ] {
        for how in ["", "-u"] {
            for format in ["qcow2", "qed"] {
                commands.push(format!(
                    "create -q {how} -f {format} -b mid.qcow2 -F qcow2 {target} 1M"
                ));
            }
        }
        commands.push(format!(
            "convert -O qcow2 -B mid.qcow2 -F qcow2 mid.qed {target}"
        ));
        commands.push(format!(
            "convert -O qed -B mid.qcow2 -F qcow2 mid.qed {target}"
        ));
    }
    for target in ["mid.qed", "hard.qed", "base.raw", "hard.raw"] {
        for how in ["", "-u"] {
            commands.push(format!(
                "create -q {how} -f qed -b mid.qed -F qed {target} 1M"
            ));
        }
    }
    let commands: Vec<(&str, &str)> = commands.iter().map(|c| (&**c, word)).collect();
    refused(&commands);
}

#[test]
fn a_data_file_is_not_made_in_a_file_of_the_chain() {
    let below = "is part of its backing file";
    refused(&[
        (
            "create -q -f qcow2 -o data_file=base.raw -b base.raw -F raw new 1M",
            below,
        ),
        (
            "create -q -f qcow2 -o data_file=base.raw -b mid.qcow2 -F qcow2 new 1M",
            below,
        ),
        (
            "create -q -u -f qcow2 -o data_file=hard.data -b mid.qcow2 -F qcow2 new 1M",
            below,
        ),
        (
            "create -q -f qcow2 -o data_file=soft.raw -b base.raw -F raw new 1M",
            below,
        ),
        (
            "convert -O qcow2 -o data_file=base.raw -B base.raw -F raw mid.qed new",
            "is part of a source",
        ),
        (
            "convert -O qcow2 -o data_file=base.data -B mid.qcow2 -F qcow2 mid.qed new",
            below,
        ),
        (
            "convert -O qcow2 -o data_file=hard.raw base.raw new",
            "is part of a source",
        ),
        (
            "create -q -f qcow2 -o data_file=new new 1M",
            "is the image itself",
        ),
        (
            "create -q -f qcow2 -o data_file=sub/../new,data_file_raw=on new 1M",
            "is the image itself",
        ),
        (
            "create -q -f qcow2 -o data_file=base.raw hard.raw 1M",
            "is the image itself",
        ),
    ]);
}

#[test]
fn a_source_is_not_its_own_target() {
    let source = "is part of a source";
    let mut commands = Vec::new();
    for how in ["", "-U", "-n", "-n -U", "-n -U -S 0", "-U -C"] {
        for (from, target) in [
            ("base.raw", "base.raw"),
            ("base.raw", "hard.raw"),
            ("soft.raw", "sub/../base.raw"),
        ] {
            commands.push((
                format!("convert {how} -f raw -O raw {from} {target}"),
                source,
            ));
        }
        // A flat copy over its own base.
        let command = format!("convert {how} -f qcow2 -O raw mid.qcow2 hard.raw");
        commands.push((command, source));
        let command = format!("convert {how} -f qcow2 -O qcow2 mid.qcow2 soft.base");
        commands.push((command, source));
        let command = format!("convert {how} -f qcow2 -O raw mid.qcow2 base.data");
        commands.push((command, source));
    }
    for how in ["", "-U"] {
        for target in ["mid.qcow2", "hard.qcow2", "base.raw", "hard.data"] {
            for format in ["raw", "qcow2"] {
                let operands = format!("if=mid.qcow2 of={target}");
                let command = format!("dd {how} -f qcow2 -O {format} bs=64k {operands}");
                commands.push((command, "is part of the input"));
            }
        }
    }
    let commands: Vec<(&str, &str)> = commands.iter().map(|(c, w)| (&**c, *w)).collect();
    refused(&commands);
}

#[test]
fn an_image_is_not_put_on_itself() {
    let word = "itself";
    refused(&[
        ("rebase -f qcow2 -b mid.qcow2 -F qcow2 mid.qcow2", word),
        ("rebase -U -f qcow2 -b hard.qcow2 -F qcow2 mid.qcow2", word),
        ("rebase -u -f qcow2 -b hard.qcow2 -F qcow2 mid.qcow2", word),
        ("rebase -u -f qcow2 -b soft.qcow2 -F qcow2 mid.qcow2", word),
        ("rebase -u -f qcow2 -b mid.qcow2 -F qcow2 base.qcow2", word),
        ("rebase -u -f qed -b hard.qed -F qed mid.qed", word),
        (
            "commit -f qcow2 -b mid.qcow2 mid.qcow2",
            "Did not find 'mid.qcow2'",
        ),
        (
            "commit -f qcow2 -b hard.qcow2 mid.qcow2",
            "Did not find 'hard.qcow2'",
        ),
    ]);
    // A loop that was there already, by another name.
    let directory = images();
    directory.qemu(&[
        "rebase",
        "-u",
        "-b",
        "hard.qcow2",
        "-F",
        "qcow2",
        "mid.qcow2",
    ]);
    for command in [
        "commit -f qcow2 mid.qcow2",
        "convert mid.qcow2 new",
        "map -U mid.qcow2",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        let output = directory.run("strata-img", &args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(
            said.contains("creates an infinite loop"),
            "{command}: {said}"
        );
    }
}

#[test]
fn a_device_is_the_same_by_each_of_its_nodes() {
    let directory = images();
    let Some(device) = Device::new(&directory, "disk", 4 << 20) else {
        return;
    };
    let path = device.path();
    directory.qemu(&["create", "-q", "-f", "qcow2", path, "1M"]);
    let number = path.trim_start_matches("/dev/loop");
    // Locks are of a node, not of the device.
    directory.ok("mknod", &["node", "b", "7", number]);
    let before = device.content();
    for command in [
        format!("create -q -f qcow2 --backing-folders /dev -b {path} -F qcow2 node 1M"),
        format!("create -q -u -f qcow2 -b {path} -F qcow2 node 1M"),
        format!("convert -n -O raw {path} node"),
        format!("convert -O raw {path} node"),
        format!("dd -f raw -O raw if={path} of=node"),
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        let output = directory.run("strata-img", &args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("is part of "), "{command}: {said}");
        assert!(before == device.content(), "{command}");
    }
}

#[test]
fn what_lies_on_no_file_of_the_command_is_made_as_before() {
    let directory = images();
    for command in [
        "create -q -f qcow2 -b mid.qcow2 -F qcow2 mid.qed 1M",
        "create -q -u -f qcow2 -b missing.qcow2 -F qcow2 new 1M",
        "create -q -f qcow2 -o data_file=base.raw new 1M",
        "convert -O qcow2 -B mid.qcow2 -F qcow2 mid.qcow2 new",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        directory.ok("strata-img", &args);
    }
    directory.qemu(&["compare", "mid.qcow2", "new"]);
    // A target on its own source is what it always was.
    directory.ok(
        "strata-img",
        &["convert", "-n", "-O", "qcow2", "base.qcow2", "new"],
    );
    directory.qemu(&["compare", "base.qcow2", "new"]);
}
