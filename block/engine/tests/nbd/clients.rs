//! Other people's clients.

use std::{fs, os::unix::fs::FileExt, path::Path};

use strata_graph::Format;

use crate::served::{Exported, Served, fio, pattern, run_client, stop_and_check, try_client};

const MIB: u64 = 1 << 20;

/// `top.qcow2` on `middle.qcow2` on `base.raw`, 16 MiB, each with data of its own.
fn chain(directory: &Path) {
    let name = |file: &str| directory.join(file).display().to_string();
    let base = fs::File::create(directory.join("base.raw")).unwrap();
    base.set_len(16 * MIB).unwrap();
    base.write_all_at(&pattern(4 * MIB as usize, 1), 0).unwrap();
    for (image, below, format, at) in [
        ("middle.qcow2", "base.raw", "raw", "2M"),
        ("top.qcow2", "middle.qcow2", "qcow2", "5M"),
    ] {
        let options = ["create", "-q", "-f", "qcow2", "-b", below, "-F", format];
        run_client("qemu-img", &[&options[..], &[&name(image)]].concat());
        let write = format!("write -q -P {} {at} 1M", image.len());
        run_client("qemu-io", &["-f", "qcow2", "-c", &write, &name(image)]);
    }
}

pub fn served_chain() -> Served {
    let disk = Exported {
        id: "disk",
        file: "top.qcow2",
        format: Format::Qcow2,
        writable: true,
    };
    Served::new(chain, vec![disk])
}

#[test]
fn nbdinfo_sees_sizes_flags_exports_and_maps() {
    let served = served_chain();
    let info = run_client("nbdinfo", &["--json", &served.uri("disk")]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let export = &info["exports"][0];
    for (key, value) in [
        ("export-size", 16 * MIB),
        ("block_size_minimum", 1),
        ("block_size_maximum", 32 * MIB),
    ] {
        let got = export[key].as_u64().or(export[key]["value"].as_u64());
        assert_eq!(got, Some(value), "{key} in {info:#}");
    }
    for flag in [
        "can_multi_conn",
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_cache",
        "can_df",
        "can_fast_zero",
    ] {
        assert_eq!(export[flag], true, "{flag} in {info:#}");
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(
        export["contexts"],
        serde_json::json!(["base:allocation", "qemu:allocation-depth"])
    );
    assert_eq!(info["structured"], true);
    // The only export is the default one, too.
    let list = run_client("nbdinfo", &["--list", "--json", &served.uri("")]);
    assert!(list.contains(r#""export-name": "disk""#), "{list}");

    let map = run_client("nbdinfo", &["--map", &served.uri("disk")]);
    let map: Vec<Vec<&str>> = map
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let data: Vec<_> = map.iter().map(|l| (l[0], l[1], l[3])).collect();
    assert_eq!(
        data,
        [
            ("0", "4194304", "data"),
            ("4194304", "1048576", "hole,zero"),
            ("5242880", "1048576", "data"),
            ("6291456", "10485760", "hole,zero"),
        ]
    );
    let depths = run_client(
        "nbdinfo",
        &["--map=qemu:allocation-depth", &served.uri("disk")],
    );
    let depths: Vec<Vec<&str>> = depths
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let depths: Vec<_> = depths.iter().map(|l| (l[0], l[2])).collect();
    assert_eq!(
        depths,
        [
            ("0", "3"),
            ("2097152", "2"),
            ("3145728", "3"),
            ("5242880", "1"),
            ("6291456", "3")
        ]
    );
}

#[test]
fn nbdcopy_copies_in_and_out_over_several_connections() {
    let served = Served::raw(64 * MIB);
    let bytes = pattern(64 * MIB as usize, 2);
    fs::write(served.path("in"), &bytes).unwrap();
    let flags = ["--connections=4", "--requests=32", "--flush"];
    let copy = |from: &str, to: &str| {
        run_client("nbdcopy", &[&flags[..], &[from, to]].concat());
    };
    copy(&served.path("in"), &served.uri("disk"));
    copy(&served.uri("disk"), &served.path("out"));
    assert!(fs::read(served.path("out")).unwrap() == bytes);
    assert!(fs::read(served.path("disk.raw")).unwrap() == bytes);
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let served = served_chain();
    let (uri, top) = (served.uri("disk"), served.path("top.qcow2"));
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw"];
    // Reads holes as holes, and every layer's data.
    run_client(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            &uri,
            &served.path("out"),
        ],
    );
    run_client(
        "qemu-img",
        &[
            "compare",
            "-U",
            "-f",
            "raw",
            "-F",
            "qcow2",
            &served.path("out"),
            &top,
        ],
    );
    let map = run_client("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(
        map.contains(r#""start": 6291456, "length": 10485760"#),
        "{map}"
    );
    // Writes, with zeroing of the whole target first where that is fast.
    let bytes = pattern(16 * MIB as usize, 3);
    fs::write(served.path("in"), &bytes).unwrap();
    run_client(
        "qemu-img",
        &[&convert[..], &[&served.path("in"), &uri]].concat(),
    );
    run_client(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "raw",
            &served.path("in"),
            &uri,
        ],
    );
    stop_and_check(served, "top.qcow2");
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back() {
    let served = served_chain();
    let io = |commands: &[&str]| {
        let uri = served.uri("disk");
        let mut args = vec!["-f", "raw", "-d", "unmap"];
        args.extend(commands.iter().flat_map(|command| ["-c", *command]));
        args.push(&uri);
        let out = run_client("qemu-io", &args);
        assert!(!out.contains("failed"), "{out}");
    };
    io(&[
        "write -P 7 0 1M",
        "write -f -P 8 1M 64k",
        "write -z 512k 64k",
        "write -z -u 576k 64k",
        "discard 5M 512k",
        "flush",
    ]);
    io(&[
        "read -P 7 0 512k",
        "read -P 0 512k 128k",
        "read -P 7 640k 384k",
        "read -P 8 1M 64k",
        "read -P 9 5632k 512k",
        "aio_read 0 4k",
        "aio_flush",
    ]);
    stop_and_check(served, "top.qcow2");
}

/// Python for `nbdsh`: strict checks of the client are off, so that the server sees everything.
const NBDSH: &str = r#"
import errno
def expect(name, *what):
    try:
        call = what[0]
        call(*what[1:])
    except nbd.Error as error:
        assert error.errnum == getattr(errno, name), (name, error)
        return
    raise AssertionError(name + " expected")
h.set_strict_mode(0)
"#;

fn nbdsh(script: &str) {
    let script = format!("{NBDSH}\n{script}");
    run_client("nbdsh", &["-c", &script]);
}

#[test]
fn nbdsh_gets_the_right_error_for_what_is_wrong() {
    let served = Served::raw(MIB);
    let uri = served.uri("disk");
    for simple in [false, true] {
        let structured = if simple { "False" } else { "True" };
        nbdsh(&format!(
            r#"
h.set_request_structured_replies({structured})
h.connect_uri("{uri}")
size = h.get_size()
assert h.get_structured_replies_negotiated() == {structured}
expect("EINVAL", h.pread, 512, size)
expect("EINVAL", h.pread, 1024, size - 512)
expect("EINVAL", h.pread, 513, size - 512)
expect("ENOSPC", h.pwrite, b"x" * 512, size)
expect("ENOSPC", h.pwrite, b"x" * 512, 0xfffffffffffffe00)
expect("ENOSPC", h.zero, 1024, size - 512)
expect("EINVAL", h.trim, 1024, size - 512)
expect("EINVAL", h.cache, 1024, size - 512)
expect("ENOSPC", h.pwrite, b"x" * 513, size - 512)
expect("EINVAL", h.pread, 512, 0, 0x10)
expect("EINVAL", h.flush, 0x10)
# The connection goes on.
h.pwrite(b"y" * 512, 512, nbd.CMD_FLAG_FUA)
assert h.pread(1024, 0) == b"\0" * 512 + b"y" * 512
h.zero(512, 512, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(512, 0, nbd.CMD_FLAG_FUA)
h.cache(65536, 0)
h.flush()
h.zero(0, 0)
h.trim(0, 0)
h.pwrite(b"", 0)
assert h.pread(1024, 0) == b"\0" * 1024
h.shutdown()
"#
        ));
    }
}

#[test]
fn fast_zeroing_is_done_only_where_it_is_fast() {
    let served = Served::raw(MIB);
    let uri = served.uri("disk");
    nbdsh(&format!(
        r#"
h.connect_uri("{uri}")
h.zero(h.get_size(), 0, nbd.CMD_FLAG_FAST_ZERO)
h.pwrite(b"y" * 4096, 65536)
expect("ENOTSUP", h.zero, h.get_size(), 0, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(4096, 65536) == b"y" * 4096
"#
    ));
}

#[test]
fn a_read_only_export_refuses_every_write() {
    let disk = Exported {
        id: "disk",
        file: "top.qcow2",
        format: Format::Qcow2,
        writable: false,
    };
    let served = Served::new(chain, vec![disk]);
    let uri = served.uri("disk");
    nbdsh(&format!(
        r#"
h.connect_uri("{uri}")
assert h.is_read_only()
expect("EPERM", h.pwrite, b"x" * 512, 0)
expect("EPERM", h.zero, 512, 0)
expect("EPERM", h.trim, 512, 0)
h.flush()
h.pread(512, 0)
"#
    ));
}

#[test]
fn options_are_negotiated_one_by_one() {
    let served = Served::new(
        chain,
        vec![
            Exported {
                id: "first",
                file: "top.qcow2",
                format: Format::Qcow2,
                writable: true,
            },
            Exported {
                id: "second",
                file: "base.raw",
                format: Format::Raw,
                writable: false,
            },
        ],
    );
    let socket = served.path("nbd.sock");
    nbdsh(&format!(
        r#"
h.set_opt_mode(True)
h.connect_unix("{socket}")
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["first", "second"], names
expect("ENOENT", h.opt_info)          # the empty name is nobody's if there are two
h.set_export_name("third")
expect("ENOENT", h.opt_go)
h.set_export_name("second")
h.opt_info()
assert h.is_read_only()
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation", "qemu:allocation-depth"], contexts
h.set_export_name("first")
h.add_meta_context("qemu:allocation-depth")
h.add_meta_context("x-unknown:thing")
h.opt_go()
assert h.can_meta_context("qemu:allocation-depth")
assert not h.can_meta_context("base:allocation")
seen = []
h.block_status(4096, 5 << 20, lambda name, offset, extents, error: seen.append((name, offset, extents)), nbd.CMD_FLAG_REQ_ONE)
assert seen == [("qemu:allocation-depth", 5 << 20, [4096, 1])], seen
h.shutdown()

# The oldest way to choose an export, and leaving in order before that.
old = nbd.NBD()
old.set_handshake_flags(0)
old.set_export_name("second")
old.connect_unix("{socket}")
assert old.get_size() == 16 << 20
assert not old.get_structured_replies_negotiated()
old.pread(512, 0)
old.shutdown()
early = nbd.NBD()
early.set_opt_mode(True)
early.connect_unix("{socket}")
early.opt_abort()
"#
    ));
}

#[test]
fn a_flush_covers_what_other_connections_wrote() {
    let served = served_chain();
    let uri = served.uri("disk");
    nbdsh(&format!(
        r#"
others = [nbd.NBD() for _ in range(4)]
for i, other in enumerate(others):
    other.connect_uri("{uri}")
    assert other.can_multi_conn()
    other.pwrite(bytes([65 + i]) * 65536, (7 << 20) + i * 65536)
h.connect_uri("{uri}")
h.flush()
for i in range(4):
    assert h.pread(65536, (7 << 20) + i * 65536) == bytes([65 + i]) * 65536
"#
    ));
    // What reached the file is what a crash right now would leave.
    let copy = served.path("copy.qcow2");
    fs::copy(served.path("top.qcow2"), &copy).unwrap();
    let read = |n: u64| format!("read -P {} {} 64k", 65 + n, 7 * MIB + n * 65536);
    for n in 0..4 {
        let out = run_client("qemu-io", &["-f", "qcow2", "-c", &read(n), &copy]);
        assert!(!out.contains("failed"), "{out}");
    }
}

#[test]
fn fio_verifies_while_a_stream_job_merges_the_chain() {
    let served = served_chain();
    let uri = served.uri("disk");
    served.stream(2 * MIB);
    fio(&uri, 8 * MIB);
    // Until the job is done.
    while served.jobs() > 0 {
        fio(&uri, 12 * MIB);
    }
    // What no client wrote is as before, and the layers below are not needed any more.
    let alone = served.path("alone.qcow2");
    fs::rename(served.path("base.raw"), served.path("gone.raw")).unwrap();
    fs::rename(served.path("middle.qcow2"), served.path("gone.qcow2")).unwrap();
    run_client(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, &alone],
    );
    let bytes = pattern(4 * MIB as usize, 1);
    let base = run_client(
        "nbdsh",
        &[
            "-u",
            &uri,
            "-c",
            "import hashlib; print(hashlib.md5(h.pread(2 << 20, 0)).hexdigest())",
        ],
    );
    fs::write(served.path("expected"), &bytes[..2 * MIB as usize]).unwrap();
    let expected = run_client("md5sum", &[&served.path("expected")]);
    assert_eq!(base.trim(), &expected[..32]);
    stop_and_check(served, "top.qcow2");
}

#[test]
fn nbdcopy_from_a_server_that_goes_away_fails_at_once() {
    let served = Served::raw(64 * MIB);
    served.on_thread(|_, server| server.remove("disk", false).unwrap());
    let output = try_client("nbdcopy", &[&served.uri("disk"), "null:"]);
    assert!(!output.status.success());
}
