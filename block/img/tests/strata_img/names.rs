//! What images can be called, beside `qemu-img`.

use crate::{Directory, same_output::assert_same, text};

fn directory() -> Directory {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    let backing = ["-b", "base.qcow2", "-F", "qcow2"];
    let create = ["create", "-q", "-f", "qcow2", "c.qcow2"];
    directory.qemu(&[&create[..4], &backing, &create[4..]].concat());
    directory.qemu_io("c.qcow2", &["write -P 1 0 64k"]);
    std::fs::copy(directory.path("c.qcow2"), directory.path("a:b.qcow2")).unwrap();
    directory
}

#[test]
fn the_same_is_said_of_an_image_by_other_names() {
    let directory = directory();
    let names: [&[&str]; 6] = [
        &[
            "json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"c.qcow2\"}}",
        ],
        &["json:{'file.filename': 'c.qcow2', 'driver': 'qcow2'}"],
        &["file:a:b.qcow2"],
        &[
            "--image-opts",
            "driver=qcow2,file.driver=file,file.filename=c.qcow2",
        ],
        &[
            "--image-opts",
            "driver=qcow2,file.filename=c.qcow2,file.aio=threads,read-only=on",
        ],
        &["--image-opts", "driver=raw,file.filename=c.qcow2"],
    ];
    for name in names {
        for command in ["map", "check", "measure -O raw"] {
            let command: Vec<&str> = command.split(' ').collect();
            if name.len() == 2 && name[1].starts_with("driver=raw") && command == ["check"] {
                continue;
            }
            assert_same(&directory, &[&command[..], name].concat());
        }
        let with_list = [&["compare"], name].concat();
        let second = *name.last().unwrap();
        assert_same(&directory, &[&with_list[..], &[second]].concat());
    }
}

#[test]
fn images_are_written_by_their_options_without_f() {
    let directory = directory();
    let listed = ["--image-opts", "driver=qcow2,file.filename=c.qcow2"];
    directory.ok("strata-img", &[&["resize"], &listed[..], &["2M"]].concat());
    directory.ok(
        "strata-img",
        &[&["snapshot", "-c", "s"], &listed[..]].concat(),
    );
    directory.ok(
        "strata-img",
        &[&["bitmap", "--add"], &listed[..], &["b"]].concat(),
    );
    let json = "json:{'driver': 'qcow2', 'file.filename': 'c.qcow2'}";
    directory.ok("strata-img", &["rebase", "-u", "-b", "", json]);
    directory.ok("strata-img", &["check", "-r", "all", json]);
    let info = directory.qemu(&["info", "c.qcow2"]);
    assert!(info.contains("virtual size: 2 MiB"), "{info}");
    assert!(!info.contains("backing file"), "{info}");
    // A format is not guessed here either.
    let output = directory.run(
        "strata-img",
        &["resize", "--image-opts", "file.filename=c.qcow2", "3M"],
    );
    let error = text(&output.stderr);
    assert!(error.contains("never guessed"), "{error}");
}

#[test]
fn a_header_may_name_its_backing_file_by_json() {
    let directory = directory();
    let base = directory.path("base.qcow2");
    let json = format!(
        "json:{{\"driver\": \"qcow2\", \"file\": {{\"driver\": \"file\", \"filename\": \"{}\"}}}}",
        base.display()
    );
    let rebase = [
        "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &json, "c.qcow2",
    ];
    directory.ok("strata-img", &rebase);
    directory.qemu(&["compare", "c.qcow2", "a:b.qcow2"].map(|name| match name {
        "a:b.qcow2" => "./a:b.qcow2",
        name => name,
    }));
    assert_same(&directory, &["map", "c.qcow2"]);
    directory.ok("strata-img", &["compare", "c.qcow2", "./a:b.qcow2"]);
    // Of what is not here it is said which.
    let json = "json:{'driver': 'blkdebug', 'image': 'x'}";
    let rebase = [
        "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", json, "c.qcow2",
    ];
    directory.ok("strata-img", &rebase);
    let output = directory.run("strata-img", &["map", "c.qcow2"]);
    let error = text(&output.stderr);
    assert!(error.contains("Unknown driver 'blkdebug'"), "{error}");
}

#[test]
fn secrets_are_taken_though_nothing_needs_one() {
    let directory = directory();
    let secret = ["--object", "secret,id=s,data=x"];
    directory.ok(
        "strata-img",
        &[&["info"], &secret[..], &["c.qcow2"]].concat(),
    );
    let output = directory.run(
        "strata-img",
        &["info", "--object", "secret,data=x", "c.qcow2"],
    );
    assert!(text(&output.stderr).contains("Parameter 'id' is missing"));
    let create = [
        "create",
        "-f",
        "qcow2",
        "-o",
        "encryption=on",
        "e.qcow2",
        "1M",
    ];
    let output = directory.run("strata-img", &[&create[..], &secret].concat());
    assert!(text(&output.stderr).contains("cannot be encrypted"));
}

#[test]
fn a_header_may_name_any_format_for_others() {
    let directory = directory();
    let rebase = [
        "rebase",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "host_device",
    ];
    directory.ok("strata-img", &[&rebase[..], &["-u", "c.qcow2"]].concat());
    let info = directory.qemu(&["info", "c.qcow2"]);
    assert!(info.contains("backing file format: host_device"), "{info}");
    let output = directory.run("strata-img", &[&rebase[..], &["c.qcow2"]].concat());
    let error = text(&output.stderr);
    assert!(
        error.contains("unknown image format 'host_device'"),
        "{error}"
    );
}

#[test]
fn a_loop_is_refused_in_the_same_words() {
    let directory = directory();
    let rebase = [
        "rebase", "-u", "-f", "qcow2", "-b", "c.qcow2", "-F", "qcow2",
    ];
    directory.qemu(&[&rebase[..], &["base.qcow2"]].concat());
    for image in ["c.qcow2", "base.qcow2"] {
        let said = |program| {
            let output = directory.run(program, &["info", "--backing-chain", image]);
            let error = text(&output.stderr).replace("strata-img", "qemu-img");
            (output.status.code(), error)
        };
        assert_eq!(said("qemu-img"), said("strata-img"));
    }
}
