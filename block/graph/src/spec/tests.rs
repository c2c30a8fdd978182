use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::ImageSpec;
use crate::{Format, chain::ImageOptions};

fn named(name: &str) -> ImageSpec {
    ImageSpec::from_name(Path::new(name)).unwrap()
}

fn refused(name: &str) -> String {
    ImageSpec::from_name(Path::new(name)).unwrap_err()
}

fn listed(list: &str) -> ImageSpec {
    ImageSpec::from_options(list.as_ref()).unwrap()
}

fn image(path: &str, format: Option<Format>) -> ImageSpec {
    ImageSpec {
        path: PathBuf::from(path),
        format,
        ..ImageSpec::default()
    }
}

#[test]
fn plain_names_and_uris_are_what_they_are() {
    for name in ["a.qcow2", "/a/b:c", "nbd://host/x", "nbd+unix:///?socket=s"] {
        assert_eq!(named(name), image(name, None));
    }
    assert_eq!(named("file:a:b"), image("./a:b", None));
    assert_eq!(named("file:/a/b:c"), image("/a/b:c", None));
    assert_eq!(named("./file:a"), image("./file:a", None));
}

#[test]
fn the_same_in_json_and_as_a_list() {
    let both = [
        (
            r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "a,b"}}"#,
            "driver=qcow2,file.driver=file,file.filename=a,,b",
            image("a,b", Some(Format::Qcow2)),
        ),
        (
            "json:{'file.filename': 'it\\'s \"x\"'}",
            "file.filename=it's \"x\"",
            image("it's \"x\"", None),
        ),
        (
            r#"json:{"driver": "file", "filename": "x", "node-name": "n"}"#,
            "driver=file,filename=x,node-name=n",
            image("x", Some(Format::Raw)),
        ),
        (
            r#"json:{"driver": "nbd", "export": "a b", "server": {"type": "unix", "path": "/s?"}}"#,
            "driver=nbd,export=a b,server.type=unix,server.path=/s?",
            image("nbd+unix:///a%20b?socket=/s%3F", Some(Format::Raw)),
        ),
        (
            r#"json:{"driver": "raw", "file": {"driver": "nbd", "host": "::1", "port": 10}}"#,
            "driver=raw,file.driver=nbd,file.host=::1,file.port=10",
            image("nbd://[::1]:10/", Some(Format::Raw)),
        ),
    ];
    for (json, list, expected) in both {
        assert_eq!(named(json), expected);
        assert_eq!(listed(list), expected);
    }
}

#[test]
fn options_of_drivers() {
    let spec = listed(
        "driver=qcow2,data-file.filename=d,file.filename=f,force-share=on,cache.direct=on,lazy-refcounts=on,overlap-check.template=all",
    );
    assert_eq!(spec.data_file, Some(PathBuf::from("d")));
    assert!(spec.force_share && spec.direct && !spec.read_only && !spec.no_flush);
    let spec =
        named(r#"json:{"file.filename": "f", "read-only": true, "cache": {"no-flush": true}}"#);
    assert!(spec.read_only && spec.no_flush && !spec.direct);
    let options = spec.with(ImageOptions::default()).unwrap();
    assert!(options.read_only && options.no_flush && options.format.is_none());
}

#[test]
fn what_is_not_known_is_refused() {
    let cases = [
        ("json:{", "Could not parse the JSON options"),
        ("json:[]", "Invalid JSON object given"),
        ("json:{}", "A block device must be specified"),
        (
            "json:{'driver': 'blkdebug', 'image': 'x'}",
            "Unknown driver 'blkdebug'",
        ),
        (
            "json:{'driver': 'qcow2', 'file': {'driver': 'qcow2', 'file.filename': 'x'}}",
            "Unknown driver 'qcow2'",
        ),
        ("json:{'driver': 'file'}", "requires a file name"),
        (
            "json:{'driver': 'raw', 'file.filename': 'x', 'offset': 512}",
            "does not support the option 'offset'",
        ),
        (
            "json:{'driver': 'qcow2', 'file': 'a-node'}",
            "does not support the option 'file'",
        ),
        (
            "json:{'driver': 'file', 'filename': 'x', 'locking': 'off'}",
            "locking=off is not supported",
        ),
        ("json:{'driver': 'nbd'}", "NBD server address missing"),
        (
            "json:{'driver': 'nbd', 'host': 'h', 'path': 'p'}",
            "at the same time",
        ),
        (
            "json:{'file.filename': 'x', 'read-only': 'maybe'}",
            "expects 'on' or 'off'",
        ),
        (
            "json:{'file.filename': 'x', 'backing': null}",
            "does not support the option 'backing'",
        ),
    ];
    for (name, expected) in cases {
        let why = refused(name);
        assert!(why.contains(expected), "{name}: {why}");
    }
    let error = ImageSpec::from_options("a.qcow2".as_ref()).unwrap_err();
    assert!(
        error.contains("Expected '=' after parameter 'a.qcow2'"),
        "{error}"
    );
    let twice = ImageOptions {
        format: Some(Format::Raw),
        ..ImageOptions::default()
    };
    let error = listed("driver=qed,file.filename=x")
        .with(twice)
        .unwrap_err();
    assert!(error.contains("Driver specified twice"), "{error}");
}

#[test]
fn names_in_lists_may_be_no_text() {
    let list = OsStr::from_bytes(b"driver=qcow2,file.filename=/a\xff,,b,read-only=on");
    let spec = ImageSpec::from_options(list).unwrap();
    assert_eq!(spec.path, Path::new(OsStr::from_bytes(b"/a\xff,b")));
    assert!(spec.read_only);
    for list in [
        &b"driver=\xff"[..],
        b"filename=x,read-only=\xff",
        b"driver=nbd,export=\xff,path=/s",
    ] {
        let error = ImageSpec::from_options(OsStr::from_bytes(list)).unwrap_err();
        assert!(error.contains("is not valid UTF-8 text"), "{error}");
    }
}
