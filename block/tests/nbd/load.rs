//! Every client at work while a merge runs and another client writes; and a disk that changes its
//! size under its clients.

use std::{
    cell::RefCell,
    fs,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use strata_block::api::{Cmd, OnError, Reply};

use crate::{
    clients::{served_chain, stop_and_check},
    hand::{Client, READ, WRITE},
    served::{Served, run_client},
};

const MIB: u64 = 1 << 20;
/// Below this offset nobody writes.
const STILL: usize = 8 << 20;

fn execute(served: &Served, cmd: Cmd) {
    served.on_thread(move |engine, _| {
        engine.execute(cmd, Box::new(|reply| assert_eq!(reply, Ok(Reply::Done))));
    });
}

fn jobs(served: &Served) -> usize {
    served.on_thread(|engine, _| {
        let answer = Rc::new(RefCell::new(None));
        let slot = answer.clone();
        engine.execute(
            Cmd::QueryBlockJobs,
            Box::new(move |reply| *slot.borrow_mut() = Some(reply)),
        );
        match answer.take() {
            Some(Ok(Reply::BlockJobs(jobs))) => jobs.len(),
            other => panic!("{other:?}"),
        }
    })
}

/// Writes and verifies above [`STILL`] until told to stop.
fn load(uri: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<u32> {
    thread::spawn(move || {
        let mut runs = 0;
        let uri = format!("--uri={uri}");
        while !stop.load(Ordering::SeqCst) {
            let args = [
                "--name=load",
                "--ioengine=nbd",
                &uri,
                "--rw=randrw",
                "--bsrange=4k-64k",
                "--iodepth=16",
                "--offset=8M",
                "--size=3M",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--do_verify=1",
                "--fsync=16",
                "--output-format=terse",
            ];
            run_client("fio", &args);
            runs += 1;
        }
        runs
    })
}

#[test]
fn every_client_reads_and_writes_right_while_a_merge_runs_under_load() {
    let served = served_chain();
    let uri = served.uri("disk");
    let before = served.path("before");
    run_client("nbdcopy", &[&uri, &before]);
    let expected = fs::read(&before).unwrap();
    execute(
        &served,
        Cmd::Stream {
            job_id: None,
            device: "disk".into(),
            base: None,
            base_node: None,
            backing_file: None,
            speed: MIB / 8,
            on_error: OnError::Report,
            auto_finalize: true,
            auto_dismiss: true,
        },
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(uri.clone(), stop.clone());

    all_clients(&served, &uri, &expected);
    assert_eq!(jobs(&served), 1, "the merge has run all the time");
    let id = "disk".to_owned();
    execute(&served, Cmd::JobSetSpeed { id, speed: 0 });
    while jobs(&served) > 0 {
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::SeqCst);
    assert!(writer.join().unwrap() > 0);
    // And once more, with what has been merged.
    all_clients(&served, &uri, &expected);
    stop_and_check(served, "top.qcow2");
}

fn all_clients(served: &Served, uri: &str, expected: &[u8]) {
    let info = run_client("nbdinfo", &["--size", uri]);
    assert_eq!(info.trim(), (16 * MIB).to_string());
    run_client("nbdinfo", &["--map", uri]);
    let copy = served.path("copy");
    let same = |what: &str| {
        let found = fs::read(&copy).unwrap();
        assert!(found[..STILL] == expected[..STILL], "{what}");
        fs::remove_file(&copy).unwrap();
    };
    run_client("nbdcopy", &[uri, &copy]);
    same("nbdcopy");
    run_client(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", uri, &copy],
    );
    same("qemu-img");
    let script = format!("open({copy:?}, 'wb').write(h.pread({STILL}, 0))");
    run_client("nbdsh", &["-u", uri, "-c", &script]);
    same("nbdsh");
    let script =
        "h.pwrite(b'\\x33' * 65536, 15 << 20); assert h.pread(65536, 15 << 20) == b'\\x33' * 65536";
    run_client("nbdsh", &["-u", uri, "-c", script]);
    let mut args = vec!["-f", "raw"];
    for command in ["write -q -P 7 14M 300k", "flush", "read -q -P 7 14M 300k"] {
        args.extend(["-c", command]);
    }
    args.push(uri);
    run_client("qemu-io", &args);
}

#[test]
fn a_disk_changes_its_size_under_its_clients() {
    let served = served_chain();
    let uri = served.uri("disk");
    let mut client = Client::attached(&served);
    let device = || "disk".to_owned();
    let resize = |size| {
        let cmd = Cmd::Resize {
            device: device(),
            size,
        };
        execute(&served, cmd);
        // The answer comes when it is done, which may be after the errand; then the size has changed.
        let expected = size.to_string();
        while run_client("nbdinfo", &["--size", &uri]).trim() != expected {
            thread::sleep(Duration::from_millis(5));
        }
    };
    resize(20 * MIB);
    // Who was there goes on, and may use what has come.
    client.request(WRITE, 19 * MIB, 512);
    client.send(&[&[9; 512]]);
    assert_eq!(client.reply(0).0, 0);
    client.request(READ, 19 * MIB, 512);
    assert_eq!(client.reply(512), (0, vec![9; 512]));
    resize(10 * MIB);
    client.request(READ, 19 * MIB, 512);
    assert_eq!(client.reply(512).0, 22, "EINVAL: beyond the end");
    client.request(READ, 0, 512);
    assert_eq!(client.reply(512).0, 0);
    drop(client);
    stop_and_check(served, "top.qcow2");
}
