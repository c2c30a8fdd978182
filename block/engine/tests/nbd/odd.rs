//! Disks whose layers end within a sector, and requests that begin or end there.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use strata_graph::Format;

use crate::{
    served::{Exported, Served, pattern, run_client, stop_and_check},
    servers::Server,
};

/// Bytes of the layer that ends within a sector, and of the disk that it is alone.
const ODD: usize = 100_000;
const ROUNDED_UP: usize = 100_352;
const ROUNDED_DOWN: usize = 99_840;

/// Bytes of an overlay.
const OVERLAY: usize = 1 << 20;

fn exported(file: &'static str, format: Format) -> Exported {
    Exported {
        id: "disk",
        file,
        format,
        writable: true,
    }
}

/// `odd.raw`, with data up to its end.
fn odd_raw(directory: &Path) {
    fs::write(directory.join("odd.raw"), pattern(ODD, 1)).unwrap();
}

fn create(directory: &Path, image: &str, below: &str, format: &str, size: usize) {
    let (size, image) = (
        size.to_string(),
        directory.join(image).display().to_string(),
    );
    let args = ["create", "-q", "-f", "qcow2", "-b", below, "-F", format];
    run_client("qemu-img", &[&args[..], &[&image, &size]].concat());
}

/// A header that ends the disk within a sector, as other programs write them.
fn set_header_size(image: &Path, size: usize) {
    let file = File::options().write(true).open(image).unwrap();
    file.write_all_at(&(size as u64).to_be_bytes(), 24).unwrap();
}

/// `odd.qcow2`: [`ODD`] bytes by its header, all of it data.
fn odd_qcow2(directory: &Path) {
    let image = directory.join("odd.qcow2").display().to_string();
    fs::write(directory.join("bytes"), pattern(ROUNDED_UP, 1)).unwrap();
    let bytes = directory.join("bytes").display().to_string();
    let args = ["convert", "-f", "raw", "-O", "qcow2", &bytes, &image];
    run_client("qemu-img", &args);
    set_header_size(image.as_ref(), ODD);
}

/// What a disk shows whose odd layer ends, and what lies behind it up to `len`.
fn padded(len: usize) -> Vec<u8> {
    let mut bytes = pattern(ODD, 1);
    bytes.resize(len, 0);
    bytes
}

/// Every client reads the disk, and it holds `expected`.
fn read_by_all(served: &Served, expected: &[u8]) {
    let uri = served.uri("disk");
    let out = served.path("out");
    run_client("nbdcopy", &[&uri, &out]);
    assert!(fs::read(&out).unwrap() == expected, "nbdcopy");
    let args = ["convert", "-f", "raw", "-O", "raw", &uri, &out];
    run_client("qemu-img", &args);
    assert!(fs::read(&out).unwrap() == expected, "qemu-img convert");
    run_client("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    let map = run_client("nbdinfo", &["--map", &uri]);
    let mut end = 0;
    for line in map.lines() {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (start, len) = (fields.next().unwrap(), fields.next().unwrap());
        assert_eq!(start, Ok(end), "{map}");
        end += len.unwrap();
        // Whoever has not asked for block sizes counts in sectors.
        assert!(end.is_multiple_of(512), "{map}");
    }
    assert_eq!(end, expected.len() as u64, "{map}");
    let depths = run_client("nbdinfo", &["--map=qemu:allocation-depth", &uri]);
    assert!(!depths.is_empty());
    fs::write(served.path("expected"), expected).unwrap();
    run_client(
        "nbdsh",
        &[
            "-u",
            &uri,
            "-c",
            &format!(
                "want = open({:?}, 'rb').read()\n\
                 assert h.get_size() == len(want), h.get_size()\n\
                 assert h.get_block_size(nbd.SIZE_MINIMUM) == 1\n\
                 for at, n in [(0, 1), (511, 2), (99_839, 161), (99_000, 840), (1, 70_001)]:\n\
                 \x20   n = min(n, len(want) - at)\n\
                 \x20   assert h.pread(n, at) == want[at:at + n], (at, n)",
                served.path("expected")
            ),
        ],
    );
}

#[test]
fn a_raw_disk_that_ends_within_a_sector_is_read_by_everybody() {
    let served = Served::new(odd_raw, vec![exported("odd.raw", Format::Raw)]);
    read_by_all(&served, &padded(ROUNDED_UP));
}

#[test]
fn so_is_an_overlay_of_one() {
    let prepare = |directory: &Path| {
        odd_raw(directory);
        create(directory, "top.qcow2", "odd.raw", "raw", OVERLAY);
    };
    let served = Served::new(prepare, vec![exported("top.qcow2", Format::Qcow2)]);
    read_by_all(&served, &padded(OVERLAY));
}

#[test]
fn so_is_a_header_that_ends_within_a_sector() {
    let served = Served::new(odd_qcow2, vec![exported("odd.qcow2", Format::Qcow2)]);
    read_by_all(&served, &pattern(ODD, 1)[..ROUNDED_DOWN]);
}

#[test]
fn so_is_a_layer_below_with_such_a_header() {
    let prepare = |directory: &Path| {
        odd_qcow2(directory);
        create(directory, "top.qcow2", "odd.qcow2", "qcow2", OVERLAY);
    };
    let served = Served::new(prepare, vec![exported("top.qcow2", Format::Qcow2)]);
    read_by_all(&served, &padded(OVERLAY));
}

#[test]
fn so_is_an_export_of_somebody_else_that_ends_within_a_sector() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("bytes"), pattern(ODD, 1)).unwrap();
    let file = directory.path().join("bytes").display().to_string();
    let server = Server::nbdkit(&directory.path().join("s"), &["file", &file]);
    let uri: &'static str = server.uri().leak();
    let served = Served::new(|_| (), vec![exported(uri, Format::Raw)]);
    read_by_all(&served, &padded(ROUNDED_UP));
}

/// A change, as the arguments of an `nbdsh` call and as what it does to a model.
const CHANGES: &str = r#"
import random
random.seed(SEED)
want = bytearray(h.pread(h.get_size(), 0))
size = len(want)
for n in range(120):
    at = random.choice([0, 511, 513, 65535, 65536, 99839, size - 700, random.randrange(size)])
    count = min(random.choice([1, 3, 511, 512, 513, 4096, 70001]), size - at)
    what = random.randrange(6)
    if what <= 2:
        data = bytes([random.randrange(1, 256)]) * count
        h.pwrite(data, at, random.choice([0, nbd.CMD_FLAG_FUA]))
        want[at:at + count] = data
    elif what == 3:
        h.zero(count, at, random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        want[at:at + count] = bytes(count)
    elif what == 4:
        h.trim(count, at)
        got = h.pread(count, at)
        # Each byte is as before, or zero.
        assert all(b in (0, w) for b, w in zip(got, want[at:at + count])), (at, count)
        want[at:at + count] = got
    else:
        h.cache(count, at)
        h.block_status(count, at, lambda *a: 0) if h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION) else 0
    assert h.pread(count, at) == want[at:at + count], (n, what, at, count)
got = h.pread(size, 0)
assert got == want, [i for i in range(size) if got[i] != want[i]][:5]
"#;

fn change(served: &Served, seed: u32) {
    let uri = served.uri("disk");
    let script = format!(
        "h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)\nh.connect_uri({uri:?})\nSEED = {seed}\n{CHANGES}"
    );
    run_client("nbdsh", &["-c", &script]);
}

#[test]
fn changes_at_any_byte_change_nothing_else() {
    let raw = Served::new(odd_raw, vec![exported("odd.raw", Format::Raw)]);
    change(&raw, 1);
    let overlay = |directory: &Path| {
        odd_raw(directory);
        create(directory, "top.qcow2", "odd.raw", "raw", OVERLAY);
    };
    let served = Served::new(overlay, vec![exported("top.qcow2", Format::Qcow2)]);
    change(&served, 2);
    stop_and_check(served, "top.qcow2");
    let header = Served::new(odd_qcow2, vec![exported("odd.qcow2", Format::Qcow2)]);
    change(&header, 3);
    let extended = |directory: &Path| {
        let image = directory.join("top.qcow2").display().to_string();
        let options = "extended_l2=on,cluster_size=128k";
        let args = ["create", "-q", "-f", "qcow2", "-o", options, &image, "1M"];
        run_client("qemu-img", &args);
    };
    let served = Served::new(extended, vec![exported("top.qcow2", Format::Qcow2)]);
    change(&served, 4);
    stop_and_check(served, "top.qcow2");
    let qed = |directory: &Path| {
        odd_raw(directory);
        let image = directory.join("top.qed").display().to_string();
        let args = ["create", "-q", "-f", "qed", "-b", "odd.raw", "-F", "raw"];
        run_client("qemu-img", &[&args[..], &[&image, "1M"]].concat());
    };
    let served = Served::new(qed, vec![exported("top.qed", Format::Qed)]);
    change(&served, 5);
}

/// Four clients write the bytes of the same sectors in turns: nobody's are lost.
#[test]
fn clients_that_share_sectors_do_not_undo_each_other() {
    let served = Served::new(odd_raw, vec![exported("odd.raw", Format::Raw)]);
    let uri = served.uri("disk");
    let script = format!(
        r#"
others = [nbd.NBD() for _ in range(4)]
for other in others:
    other.connect_uri({uri:?})
for turn in range(1, 40):
    cookies = []
    for i, other in enumerate(others):
        for k in range(8):
            data = bytes([turn * 4 + i]) * 100
            cookies.append((other, other.aio_pwrite(data, (k * 4 + i) * 100)))
    while any(not other.aio_command_completed(c) for other, c in cookies[:0]):
        pass
    for other, cookie in cookies:
        while not other.aio_command_completed(cookie):
            other.poll(-1)
    want = b"".join(bytes([turn * 4 + n % 4]) * 100 for n in range(32))
    assert others[0].pread(3200, 0) == want, turn
"#
    );
    run_client("nbdsh", &["-c", &script]);
}
