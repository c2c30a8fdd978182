//! Dirty bitmaps: made over the monitor, shown to NBD clients, stored for QEMU.

use serde_json::Value;

use crate::{
    DISK,
    process::{Serve, Signal, client},
};

/// The dirty ranges that a server shows in the export's bitmap `b`.
fn dirty(server: &[&str]) -> Vec<(u64, u64)> {
    let args = ["--json", "--map=qemu:dirty-bitmap:b", "--"];
    let map = client("nbdinfo", &[&args[..], server].concat());
    let runs: Vec<Value> = serde_json::from_str(&map).unwrap();
    let number = |run: &Value, name: &str| run[name].as_u64().unwrap();
    runs.iter()
        .filter(|run| run["type"] == 1)
        .map(|run| (number(run, "offset"), number(run, "length")))
        .collect()
}

fn write(uri: &str, command: &str) {
    client("qemu-io", &["-f", "raw", "-c", command, uri]);
}

#[test]
fn a_bitmap_is_shown_while_it_records_and_stored_at_the_end() {
    let mut serve = Serve::start(&["--disk", DISK, "--qmp", "unix:qmp"]);
    let mut qmp = serve.qmp();
    qmp.run(
        r#"{"execute":"block-dirty-bitmap-add","arguments":{"node":"root","name":"b","persistent":true}}"#,
    );
    let socket = serve.path("nbd.sock");
    qmp.run(&format!(
        r#"{{"execute":"nbd-server-start","arguments":{{"addr":{{"type":"unix","data":{{"path":"{socket}"}}}}}}}}"#
    ));
    qmp.run(
        r#"{"execute":"nbd-server-add","arguments":{"device":"root","writable":true,"bitmap":"b"}}"#,
    );
    let uri = serve.uri("root");
    write(&uri, "write -P 1 1M 200k");
    write(&uri, "write -z 8M 64k");
    let first = [(1 << 20, 256 << 10), (8 << 20, 64 << 10)];
    assert_eq!(dirty(&[&uri]), first);
    let blocks = qmp.run(r#"{"execute":"query-block"}"#);
    assert!(blocks.contains(r#""count": 327680"#), "{blocks}");
    qmp.run(r#"{"execute":"quit"}"#);
    assert_eq!(serve.wait(), Some(0));
    let image = serve.path("disk.qcow2");
    let qemu = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", "b", &image, "]"];
    assert_eq!(dirty(&qemu), first);

    let export = "type=nbd,disk=root,addr=unix:nbd.sock,writable=on,bitmap=b";
    let mut again = serve.otherwise(&["--disk", DISK, "--export", export]);
    write(&uri, "write -P 2 16M 64k");
    let both = [&first[..], &[(16 << 20, 64 << 10)]].concat();
    assert_eq!(dirty(&[&uri]), both);
    again.signal(Signal::TERM);
    assert_eq!(again.wait(), Some(0));
    assert_eq!(dirty(&qemu), both);
    client("qemu-img", &["check", "-f", "qcow2", &image]);
}
