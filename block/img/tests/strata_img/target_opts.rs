//! Targets that are options of block drivers, and backing files in formats for others.

use crate::{Directory, read, text};

/// The exit codes of both programs for the same arguments, on the same files.
fn codes(args: &[&str]) -> [(Option<i32>, Vec<u8>, Vec<u8>); 2] {
    ["qemu-img", "strata-img"].map(|program| {
        let directory = Directory::new();
        directory.qemu(&["create", "-q", "-f", "qcow2", "s", "1M"]);
        directory.qemu_io("s", &["write -q -P 3 64k 64k"]);
        directory.qemu(&["create", "-q", "-f", "qcow2", "t", "1M"]);
        directory.qemu(&["create", "-q", "raw", "1M"]);
        let output = directory.run(program, args);
        assert!(!directory.path("json:").exists());
        directory.qemu(&["convert", "-f", "qcow2", "t", "shown"]);
        let left = (read(&directory.path("raw")), read(&directory.path("shown")));
        let said = text(&output.stderr);
        if !output.status.success() {
            assert!(
                program == "qemu-img" || said.lines().count() == 1,
                "{args:?}: {said}"
            );
        }
        (output.status.code(), left.0, left.1)
    })
}

#[test]
fn a_target_that_is_there_may_be_given_by_its_options() {
    let json_qcow2 = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"t"}}"#;
    let json_raw = r#"json:{"driver":"raw","file":{"driver":"file","filename":"raw"}}"#;
    let opts = "--target-image-opts";
    let qcow2 = "driver=qcow2,file.filename=t";
    let read_only = "driver=qcow2,file.filename=t,read-only=on";
    for (args, success) in [
        (&["-n", opts, "s", qcow2][..], true),
        (&["-n", opts, "s", "driver=raw,file.filename=raw"], true),
        (&["-n", opts, "-c", "s", qcow2], true),
        (&["-n", "-O", "qcow2", "s", json_qcow2], true),
        (&["-n", "-O", "raw", "s", json_raw], true),
        (&["-n", "s", json_raw], true),
        (
            &[
                "-n",
                "--image-opts",
                opts,
                "driver=qcow2,file.filename=s",
                qcow2,
            ],
            true,
        ),
        (&["-n", opts, "s", read_only], false),
        (&["-n", opts, "s", "driver=raw,file.filename=none"], false),
        (&["-n", opts, "s", "t"], false),
        (&["-n", "-O", "raw", "s", json_qcow2], false),
        (&["-n", "-O", "qcow2", opts, "s", qcow2], false),
        (&[opts, "s", qcow2], false),
        (&["-O", "raw", "s", json_raw], false),
        (&["-O", "qcow2", "s", json_qcow2], false),
    ] {
        let args = [&["convert"], args].concat();
        let [theirs, ours] = codes(&args);
        assert_eq!(theirs.0, Some(i32::from(!success)), "{args:?}");
        assert!(theirs == ours, "{args:?}: {:?}", ours.0);
    }
    let [theirs, ours] = codes(&["create", json_raw, "1M"]);
    assert_eq!((theirs.0, ours.0), (Some(1), Some(1)));
}

#[test]
fn a_new_header_may_name_a_format_for_others() {
    for (options, success) in [
        (&["-u", "-b", "foo", "-F", "vmdk"][..], true),
        (&["-u", "-b", "foo", "-o", "backing_fmt=vdi"], true),
        (&["-u", "-o", "backing_file=foo,backing_fmt=file"], true),
        (&["-u", "-b", "foo", "-F", "nosuch"], false),
        (&["-u", "-b", "foo", "-F", "VMDK"], false),
        (&["-u", "-b", "foo"], false),
        (&["-b", "foo", "-F", "vmdk"], false),
    ] {
        for format in ["qcow2", "qed"] {
            let directory = Directory::new();
            let args = [&["create", "-f", format], options, &["i", "1M"]].concat();
            let [theirs, ours] = ["qemu-img", "strata-img"].map(|program| {
                let output = directory.run(program, &args);
                let info = directory.run("qemu-img", &["info", "-f", format, "i"]);
                let _ = std::fs::remove_file(directory.path("i"));
                let made = text(&output.stdout);
                let made = if success { made } else { String::new() };
                let lines = text(&info.stdout);
                let backing = lines.lines().filter(|line| line.contains("backing"));
                let backing = backing.map(str::to_owned).collect::<Vec<_>>();
                (output.status.code(), made, backing)
            });
            assert_eq!(theirs, ours, "{args:?}");
            assert_eq!(ours.0, Some(i32::from(!success)), "{args:?}");
        }
    }
}
