//! Names of files are bytes: those that are no UTF-8 text, too.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{Directory, text};

const BASE: &[u8] = b"b\xff,\xfe.img";
const MID: &[u8] = b"m\xff.img";
const TOP: &[u8] = b"t\xfe.img";

/// Arguments of which some are names.
fn args(parts: &[&dyn AsRef<[u8]>]) -> Vec<OsString> {
    let part = |part: &&dyn AsRef<[u8]>| OsStr::from_bytes((*part).as_ref()).to_owned();
    parts.iter().map(part).collect()
}

fn run(directory: &Directory, program: &str, args: &[OsString]) -> Output {
    let program = match program {
        "strata-img" => env!("CARGO_BIN_EXE_strata-img"),
        other => other,
    };
    let mut command = Command::new(program);
    command.args(args).current_dir(directory.path(""));
    command.output().unwrap()
}

fn ok(directory: &Directory, program: &str, args: &[OsString]) -> Vec<u8> {
    let output = run(directory, program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output.stdout
}

macro_rules! args {
    ($($part:expr),* $(,)?) => { args(&[$(&$part),*]) };
}

fn doubled(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in name {
        out.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b',')));
    }
    out
}

fn content(directory: &Directory, format: &str, name: &[u8]) -> Vec<u8> {
    ok(
        directory,
        "qemu-img",
        &args!["convert", "-f", format, "-O", "raw", name, "content"],
    );
    std::fs::read(directory.path("content")).unwrap()
}

fn has(directory: &Directory, image: &[u8], name: &[u8]) -> bool {
    let path = directory.0.path().join(OsStr::from_bytes(image));
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(name.len()).any(|window| window == name)
}

/// A chain of three in the directory, made by `program`, with something in each layer.
fn chain(directory: &Directory, program: &str, format: &str) {
    ok(
        directory,
        program,
        &args!["create", "-q", "-f", format, BASE, "1M"],
    );
    let below = [
        b"backing_fmt=",
        format.as_bytes(),
        b",backing_file=",
        &doubled(BASE),
    ]
    .concat();
    ok(
        directory,
        program,
        &args!["create", "-q", "-f", format, "-o", below, MID],
    );
    ok(
        directory,
        program,
        &args!["create", "-q", "-f", format, "-b", MID, "-F", format, TOP],
    );
    for (n, name) in [BASE, MID, TOP].into_iter().enumerate() {
        let write = format!("write -P {} {}k 64k", n + 1, n * 128);
        ok(
            directory,
            "qemu-io",
            &args!["-f", format, "-c", write, name],
        );
    }
}

#[test]
fn headers_name_any_file() {
    for format in ["qcow2", "qed"] {
        for program in ["qemu-img", "strata-img"] {
            let directory = Directory::new();
            chain(&directory, program, format);
            assert!(has(&directory, MID, BASE) && has(&directory, TOP, MID));
            let all = content(&directory, format, TOP);
            assert_eq!((all[0], all[128 << 10], all[256 << 10]), (1, 2, 3));
            for command in [
                args!["map", "--output=json", "-f", format, TOP],
                args!["check", "-f", format, "--output=json", MID],
            ] {
                let [theirs, ours] = ["qemu-img", "strata-img"].map(|program| {
                    let said = ok(&directory, program, &command);
                    serde_json::from_slice::<Value>(&said).unwrap()
                });
                assert_eq!(theirs, ours, "{command:?}");
            }
            let info = args![
                "info",
                "--backing-chain",
                "--output=json",
                "-f",
                format,
                TOP
            ];
            let [theirs, ours] = ["qemu-img", "strata-img"].map(|program| {
                let json: Value = serde_json::from_slice(&ok(&directory, program, &info)).unwrap();
                let layers = json.as_array().unwrap().iter();
                let names = layers.map(|layer| {
                    ["filename", "backing-filename", "full-backing-filename"]
                        .map(|member| layer.get(member).cloned())
                });
                names.collect::<Vec<_>>()
            });
            assert_eq!(theirs, ours);
            let said = ok(&directory, "strata-img", &args!["info", "-f", format, TOP]);
            let said = text(&said);
            assert!(said.contains("backing file: m\u{fffd}.img"), "{said}");
            let map = ok(&directory, "strata-img", &args!["map", "-f", format, TOP]);
            assert!(text(&map).contains("b\u{fffd},\u{fffd}.img"));
        }
    }
}

#[test]
fn chains_are_changed_under_any_name() {
    const NEW: &[u8] = b"n\xfd.img";
    for format in ["qcow2", "qed"] {
        let directory = Directory::new();
        let strata = |args: &[OsString]| ok(&directory, "strata-img", args);
        chain(&directory, "strata-img", format);
        let all = content(&directory, format, TOP);
        strata(&args![
            "rebase", "-f", format, "-b", BASE, "-F", format, TOP
        ]);
        assert!(has(&directory, TOP, BASE));
        assert_eq!(content(&directory, format, TOP), all);
        strata(&args![
            "rebase", "-u", "-f", format, "-b", MID, "-F", format, TOP
        ]);
        assert!(has(&directory, TOP, MID));
        assert_eq!(content(&directory, format, TOP), all);
        strata(&args![
            "convert", "-f", format, "-O", format, "-B", BASE, "-F", format, TOP, NEW
        ]);
        assert!(has(&directory, NEW, BASE));
        assert_eq!(content(&directory, format, NEW), all);
        strata(&args!["commit", "-q", "-f", format, "-b", BASE, TOP]);
        assert_eq!(content(&directory, format, BASE), all);
        if format == "qcow2" {
            strata(&args!["snapshot", "-c", "s", TOP]);
            let backing = [b"backing_fmt=qcow2,backing_file=", MID].concat();
            strata(&args!["amend", "-f", format, "-o", backing, TOP]);
        }
        strata(&args!["resize", "-q", "-f", format, TOP, "2M"]);
        strata(&args!["compare", "-f", format, "-F", format, TOP, TOP]);
    }
}

#[test]
fn data_files_have_any_name() {
    const DATA: &[u8] = b"d\xff,\xfe.raw";
    const MOVED: &[u8] = b"e\xff.raw";
    for program in ["qemu-img", "strata-img"] {
        let directory = Directory::new();
        let option = [b"data_file_raw=on,data_file=", &doubled(DATA)[..]].concat();
        ok(
            &directory,
            program,
            &args!["create", "-q", "-f", "qcow2", "-o", option, TOP, "1M"],
        );
        assert!(has(&directory, TOP, DATA));
        ok(
            &directory,
            "qemu-io",
            &args!["-f", "qcow2", "-c", "write -P 7 64k 64k", TOP],
        );
        ok(
            &directory,
            "strata-img",
            &args!["compare", "-f", "qcow2", "-F", "raw", TOP, DATA],
        );
        let info = args!["info", "--output=json", "-f", "qcow2", TOP];
        let info = ok(&directory, "strata-img", &info);
        assert!(text(&info).contains("\"data-file\": \"d\u{fffd},\u{fffd}.raw\""));
        let at = |name| directory.0.path().join(OsStr::from_bytes(name));
        std::fs::hard_link(at(DATA), at(MOVED)).unwrap();
        let option = [b"data_file=", MOVED].concat();
        ok(
            &directory,
            "strata-img",
            &args!["amend", "-f", "qcow2", "-o", option, TOP],
        );
        assert!(has(&directory, TOP, MOVED));
        ok(
            &directory,
            "strata-img",
            &args!["compare", "-f", "qcow2", "-F", "raw", TOP, MOVED],
        );
    }
}

#[test]
fn errors_tell_of_any_name() {
    let directory = Directory::new();
    for command in [
        args!["create", "-f", "qcow2", "-b", BASE, "-F", "qcow2", TOP],
        args!["rebase", "-f", "qcow2", "-b", BASE, "-F", "qcow2", TOP],
        args!["info", BASE],
    ] {
        let output = run(&directory, "strata-img", &command);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(
            said.contains('\u{fffd}') && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn lists_of_options_carry_such_names() {
    let directory = Directory::new();
    std::fs::write(directory.path("").join(OsStr::from_bytes(BASE)), [7; 512]).unwrap();
    let list = [b"driver=raw,file.filename=", &doubled(BASE)[..]].concat();
    let options = ["info", "--output=json", "--image-opts"];
    let info = ok(
        &directory,
        "strata-img",
        &args![options[0], options[1], options[2], list],
    );
    let info: Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["virtual-size"], 512);
}
