//! The client when its server goes away: for a moment, for long, for ever, or comes back as
//! another.

use std::{cell::Cell, fs, path::PathBuf, rc::Rc, time::Duration};

use strata_block::api::{BlockStream, Cmd, Reply};
use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op, Request},
};
use strata_storage::error::IoError;

use crate::{
    proxy::Proxy,
    served::{Served, run_client},
    servers::{Bench, Server, WebServer},
};

const MIB: u64 = 1 << 20;

/// A server of `size` bytes behind a proxy, and a raw disk on that.
fn behind_a_proxy(bench: &Bench, size: u64, patience: u64) -> (Served, Proxy, Disk) {
    let served = Served::raw(size);
    let proxy = Proxy::new(&bench.path("proxy"), served.path("nbd.sock").as_ref());
    let disk = bench
        .open(&proxy.uri("disk"), Format::Raw, patience)
        .unwrap();
    (served, proxy, disk)
}

/// Starts a write; whether it has ended, and how.
fn start_write(disk: &Disk, offset: u64, byte: u8) -> Rc<Cell<Option<Result<(), IoError>>>> {
    let result = Rc::new(Cell::new(None));
    let slot = result.clone();
    let request = Request {
        op: Op::Write { fua: false },
        offset,
        len: 4096,
        data: SgList::from_vec(vec![byte; 4096]),
    };
    disk.submit(request, move |ended| slot.set(Some(ended)));
    result
}

#[test]
fn requests_wait_for_a_server_that_comes_back() {
    let bench = Bench::new();
    let (_served, proxy, disk) = behind_a_proxy(&bench, MIB, 60);
    bench.write(&disk, 0, vec![1; 4096]).unwrap();
    proxy.cut(true);
    let waiting: Vec<_> = (1..9)
        .map(|i| start_write(&disk, i * 4096, i as u8 + 1))
        .collect();
    bench.idle(Duration::from_millis(300));
    for write in &waiting {
        assert!(write.take().is_none(), "a write ended without a server");
    }
    proxy.restore(None);
    let bytes = bench.read(&disk, 0, 9 * 4096).unwrap();
    while waiting.iter().any(|write| {
        let ended = write.take();
        let open = ended.is_none();
        write.set(ended);
        open
    }) {
        bench.idle(Duration::from_millis(10));
    }
    assert!(
        waiting
            .iter()
            .all(|write| matches!(write.take(), Some(Ok(()))))
    );
    assert_eq!(bytes[..4096], [1; 4096]);
    let all = bench.read(&disk, 0, 9 * 4096).unwrap();
    for (i, part) in all.chunks(4096).enumerate() {
        assert!(part.iter().all(|byte| *byte == i as u8 + 1), "block {i}");
    }
}

#[test]
fn requests_fail_after_the_limit_and_work_again_later() {
    let bench = Bench::new();
    let (_served, proxy, disk) = behind_a_proxy(&bench, MIB, 1);
    proxy.cut(true);
    let error = bench
        .write(&disk, 0, vec![1; 4096])
        .unwrap_err()
        .to_string();
    assert!(error.contains("no connection to the server"), "{error}");
    // From now on at once: nobody waits the limit for each request.
    assert!(bench.read(&disk, 0, 4096).is_err());
    proxy.restore(None);
    while bench.read(&disk, 0, 4096).is_err() {
        bench.idle(Duration::from_millis(20));
    }
    bench.write(&disk, 0, vec![2; 4096]).unwrap();
    assert_eq!(bench.read(&disk, 0, 4096).unwrap(), vec![2; 4096]);
}

#[test]
fn what_comes_back_with_another_size_is_not_used() {
    let bench = Bench::new();
    let (_served, proxy, disk) = behind_a_proxy(&bench, MIB, 1);
    bench.write(&disk, 0, vec![1; 4096]).unwrap();
    let other = Served::raw(2 * MIB);
    proxy.cut(true);
    proxy.restore(Some(other.path("nbd.sock").as_ref()));
    let error = bench
        .write(&disk, 0, vec![2; 4096])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it came back with 2097152 bytes instead of 1048576"),
        "{error}"
    );
    assert!(
        fs::read(other.path("disk.raw"))
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn a_server_that_answers_with_a_cut_each_time_is_given_up() {
    let bench = Bench::new();
    let (_served, proxy, disk) = behind_a_proxy(&bench, MIB, 1);
    bench.write(&disk, 0, vec![1; 65536]).unwrap();
    // Enough for the handshake, not for the answer.
    proxy.cut_after(2000);
    proxy.cut(false);
    let before = proxy.accepted();
    let error = bench.read(&disk, 0, 65536).unwrap_err().to_string();
    assert!(error.contains("no connection to the server"), "{error}");
    assert!(proxy.accepted() > before + 1);
}

#[test]
fn a_merge_from_an_export_survives_cuts_without_a_wrong_byte() {
    let bench = Bench::new();
    let (base, bytes) = write_base(&bench);
    let file = base.display().to_string();
    let what = ["--threads=1", "--readonly", "file", &file];
    let server = Server::nbdkit(&bench.path("nbdkit"), &what);
    merge_through_cuts(&bench, &server, bytes);
}

#[test]
fn a_merge_from_a_base_behind_http_survives_cuts_without_a_wrong_byte() {
    let bench = Bench::new();
    let (base, bytes) = write_base(&bench);
    let web = WebServer::start(base.parent().unwrap());
    let url = format!("url=http://127.0.0.1:{}/base.raw", web.port);
    let what = ["--threads=1", "--readonly", "curl", &url];
    let server = Server::nbdkit(&bench.path("nbdkit"), &what);
    merge_through_cuts(&bench, &server, bytes);
}

/// A file of 16 MiB, each word of which says where it is.
fn write_base(bench: &Bench) -> (PathBuf, Vec<u8>) {
    let base = bench.path("base.raw");
    let bytes: Vec<u8> = (0..16 * MIB as u32 / 4)
        .flat_map(|i| (i * 7 + 1).to_le_bytes())
        .collect();
    fs::write(&base, &bytes).unwrap();
    (base, bytes)
}

/// Merges what `server` has, `bytes`, into an overlay while its connection is dropped and restored
/// and the guest writes. The server has one thread: with several, nbdkit 1.32 aborts where a
/// connection ends that it has more than one answer for.
fn merge_through_cuts(bench: &Bench, server: &Server, bytes: Vec<u8>) {
    let proxy = Proxy::new(&bench.path("proxy"), &server.socket);
    // Every connection is cut somewhere in its fourth MiB, again and again.
    proxy.cut_after(3 * MIB as usize + 777);
    let top = bench.path("top.qcow2").display().to_string();
    let uri = proxy.uri("");
    run_client(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-b", &uri, "-F", "raw", "-u", &top, "16M",
        ],
    );
    let disk = bench.open(&top, Format::Qcow2, 60).unwrap();
    bench.write(&disk, MIB, vec![9; 65536]).unwrap();
    let stream = Cmd::BlockStream(BlockStream {
        device: "disk".to_owned(),
        ..BlockStream::default()
    });
    bench
        .engine
        .execute(stream, Box::new(|reply| assert_eq!(reply, Ok(Reply::Done))));
    let jobs = Rc::new(Cell::new(1));
    while jobs.get() > 0 {
        // The guest goes on meanwhile.
        bench.write(&disk, 2 * MIB, vec![8; 4096]).unwrap();
        bench.idle(Duration::from_millis(5));
        let count = jobs.clone();
        bench.engine.execute(
            Cmd::QueryBlockJobs,
            Box::new(move |reply| match reply {
                Ok(Reply::BlockJobs(jobs)) => count.set(jobs.len()),
                other => panic!("{other:?}"),
            }),
        );
    }
    assert!(proxy.accepted() > 4, "the connection was never cut");
    assert!(bench.engine.shut_down().is_empty());
    drop(disk);
    run_client("qemu-img", &["check", "-f", "qcow2", &top]);
    let info = run_client("qemu-img", &["info", "-f", "qcow2", &top]);
    assert!(!info.contains("backing file"), "{info}");
    let copy = bench.path("copy").display().to_string();
    run_client(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", &top, &copy],
    );
    let mut expected = bytes;
    expected[MIB as usize..][..65536].fill(9);
    expected[2 * MIB as usize..][..4096].fill(8);
    assert!(fs::read(&copy).unwrap() == expected);
}

/// A server in front of `disk.raw` that keeps what it is sent to itself until it is flushed. It may
/// refuse writes.
fn forgetful(bench: &Bench, refuses: bool) -> Server {
    let file = bench.path("disk.raw").display().to_string();
    let rate = if refuses { "100%" } else { "0%" };
    let rate = format!("error-pwrite-rate={rate}");
    let filters = ["--filter=error", "--filter=cache"];
    let what = ["file", &file, "error-pwrite=ENOSPC", &rate];
    Server::nbdkit(&bench.path("sock"), &[filters.as_slice(), &what].concat())
}

fn flush(bench: &Bench, disk: &Disk) -> Result<(), IoError> {
    bench.run(disk, Op::Flush, 0, 0, SgList::empty())
}

#[test]
fn what_a_server_had_only_acknowledged_when_it_died_is_sent_again() {
    let bench = Bench::new();
    fs::write(bench.path("disk.raw"), vec![0; MIB as usize]).unwrap();
    let server = forgetful(&bench, false);
    let disk = bench.open(&server.uri(), Format::Raw, 60).unwrap();
    let mut expected = vec![0; MIB as usize];
    let mut write = |offset: usize, byte: u8, len: usize| {
        expected[offset..offset + len].fill(byte);
        let bytes = vec![byte; len];
        bench.write(&disk, offset as u64, bytes).unwrap();
        expected.clone()
    };
    write(0, 1, 65536);
    flush(&bench, &disk).unwrap();
    write(4096, 2, 65536);
    // Later ones win.
    write(8192, 3, 8192);
    let mut all = write(12288, 4, 512);
    let zeroes = Op::WriteZeroes { unmap: true };
    bench.run(&disk, zeroes, 0, 2048, SgList::empty()).unwrap();
    all[..2048].fill(0);
    drop(server);
    let kept = fs::read(bench.path("disk.raw")).unwrap();
    assert!(kept != all, "the server has lost nothing");
    let again = forgetful(&bench, false);
    assert!(bench.read(&disk, 0, MIB).unwrap() == all);
    // And once more, as nothing has been flushed yet.
    drop(again);
    let again = forgetful(&bench, false);
    flush(&bench, &disk).unwrap();
    drop(again);
    assert!(fs::read(bench.path("disk.raw")).unwrap() == all);
}

#[test]
fn what_is_kept_for_a_server_that_dies_is_bounded() {
    let bench = Bench::new();
    let size = 80 * MIB;
    fs::write(bench.path("disk.raw"), vec![0; size as usize]).unwrap();
    let server = forgetful(&bench, false);
    let disk = bench.open(&server.uri(), Format::Raw, 60).unwrap();
    for n in 0..80 {
        let bytes = vec![n as u8 + 1; MIB as usize];
        bench.write(&disk, n * MIB, bytes).unwrap();
    }
    drop(server);
    // Nobody has flushed, but most is there.
    let kept = fs::read(bench.path("disk.raw")).unwrap();
    assert_eq!(kept[40 * MIB as usize], 41);
    let again = forgetful(&bench, false);
    flush(&bench, &disk).unwrap();
    drop(again);
    let kept = fs::read(bench.path("disk.raw")).unwrap();
    for (n, part) in kept.chunks(MIB as usize).enumerate() {
        assert!(part.iter().all(|byte| *byte == n as u8 + 1), "MiB {n}");
    }
}

#[test]
fn what_cannot_be_sent_again_fails_every_later_flush() {
    let bench = Bench::new();
    fs::write(bench.path("disk.raw"), vec![0; MIB as usize]).unwrap();
    let server = forgetful(&bench, false);
    let disk = bench.open(&server.uri(), Format::Raw, 60).unwrap();
    bench.write(&disk, 0, vec![1; 4096]).unwrap();
    drop(server);
    let refuses = forgetful(&bench, true);
    for _ in 0..2 {
        let result = flush(&bench, &disk);
        assert!(matches!(result, Err(IoError::Lost { .. })), "{result:?}");
    }
    drop(refuses);
    let again = forgetful(&bench, false);
    assert!(flush(&bench, &disk).is_err());
    // Only who opens it anew may go on.
    drop(disk);
    let other = Bench::new();
    let disk = other.open(&again.uri(), Format::Raw, 5).unwrap();
    flush(&other, &disk).unwrap();
}

#[test]
fn a_flush_that_a_server_refuses_is_not_forgotten() {
    let bench = Bench::new();
    let mark = bench.path("refused");
    let script = format!(
        "flush=if [ -e {0} ]; then exit 0; fi; touch {0}; echo ENOSPC >&2; exit 1",
        mark.display()
    );
    let args = [
        "eval",
        "get_size=echo 1M",
        "pread=head -c $3 /dev/zero",
        "pwrite=cat >/dev/null",
        "can_write=exit 0",
        "can_flush=exit 0",
        &script,
    ];
    let server = Server::nbdkit(&bench.path("sock"), &args);
    let disk = bench.open(&server.uri(), Format::Raw, 5).unwrap();
    bench.write(&disk, 0, vec![1; 4096]).unwrap();
    for _ in 0..2 {
        let result = flush(&bench, &disk);
        assert!(matches!(result, Err(IoError::Lost { .. })), "{result:?}");
    }
    assert!(mark.exists(), "the server was not asked");
}
