//! Every client at work while a merge runs and another client writes; and a disk that changes its
//! size under its clients.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use strata_block::api::{BlockJobSetSpeed, BlockResize, Cmd};

use crate::{
    clients::served_chain,
    hand::{Client, READ, WRITE},
    served::{Served, fio, run_client, stop_and_check},
};

const MIB: u64 = 1 << 20;
/// Below this offset nobody writes.
const STILL: usize = 8 << 20;

/// Writes and verifies above [`STILL`] until told to stop.
fn load(uri: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<u32> {
    thread::spawn(move || {
        let mut runs = 0;
        while !stop.load(Ordering::SeqCst) {
            fio(&uri, STILL as u64);
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
    served.stream(MIB / 8);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = load(uri.clone(), stop.clone());

    all_clients(&served, &uri, &expected);
    assert_eq!(served.jobs(), 1, "the merge has run all the time");
    let id = "disk".to_owned();
    served.execute(Cmd::BlockJobSetSpeed(BlockJobSetSpeed {
        device: id,
        speed: 0,
    }));
    while served.jobs() > 0 {
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
    let resize = |size| {
        let cmd = Cmd::BlockResize(BlockResize {
            device: Some("disk".to_owned()),
            size,
            ..BlockResize::default()
        });
        served.execute(cmd);
        // The answer comes when it is done, which may be after the errand; then the size has
        // changed.
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
