//! The commands about the NBD server: what they ask of the machine.

use strata_block::api::{
    BitmapRef, BlockExportAdd, Cmd, ExportType, NbdServerAdd, NbdServerRemove, NbdServerStart,
    RemoveMode, SocketAddress, SocketAddressType, Writable,
};
use strata_storage::nbd::wire::Address;
use strata_vmm::monitor::Action;

use crate::{
    client::{Client, PROMPT},
    fake::Bench,
};

fn unix(path: &str) -> Address {
    Address::Unix(path.into())
}

fn tcp(host: &str, port: u16) -> Address {
    let host = host.to_owned();
    Address::Tcp { host, port }
}

fn start(address: Address, max_connections: Option<u32>, all: Option<Writable>) -> Cmd {
    Cmd::NbdServerStart(NbdServerStart {
        max_connections,
        all,
        ..NbdServerStart::at(address)
    })
}

fn add(device: &str, name: Option<&str>, writable: bool) -> Cmd {
    Cmd::NbdServerAdd(NbdServerAdd {
        device: device.to_owned(),
        name: name.map(str::to_owned),
        writable: writable.then_some(true),
        ..NbdServerAdd::default()
    })
}

fn reference(node: Option<&str>, name: &str) -> BitmapRef {
    BitmapRef {
        node: node.map(str::to_owned),
        name: name.to_owned(),
    }
}

fn remove(name: &str, hard: bool) -> Cmd {
    let mode = hard.then_some(RemoveMode::Hard);
    let name = name.to_owned();
    Cmd::NbdServerRemove(NbdServerRemove { name, mode })
}

impl Bench {
    fn seen(&self) -> Vec<Cmd> {
        let state = self.state.lock().unwrap();
        let commands = state.seen.iter().filter_map(|action| match action {
            Action::Block(cmd) => Some(Cmd::clone(cmd)),
            _ => None,
        });
        commands.collect()
    }
}

#[test]
fn qmp_arguments_reach_the_machine() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    for (name, arguments) in [
        (
            "nbd-server-start",
            r#"{"addr":{"type":"unix","data":{"path":"/s"}},"max-connections":3}"#,
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"inet","data":{"host":"::1","port":"10809"}}}"#,
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"unix","data":{"path":"/s"}},"tls-creds":"t"}"#,
        ),
        ("nbd-server-add", r#"{"device":"virtio0"}"#),
        (
            "nbd-server-add",
            r#"{"device":"virtio0","name":"x","writable":true}"#,
        ),
        ("nbd-server-remove", r#"{"name":"x"}"#),
        ("nbd-server-remove", r#"{"name":"x","mode":"hard"}"#),
        (
            "block-export-add",
            r##"{"type":"nbd","id":"e","node-name":"#block1","name":"n","description":"d","writable":true,"bitmaps":["b",{"node":"below","name":"c"}]}"##,
        ),
        (
            "block-export-add",
            r##"{"type":"vhost-user-blk","id":"v","node-name":"#block1","addr":{"type":"unix","path":"/v"},"num-queues":4,"writable":true}"##,
        ),
        ("nbd-server-stop", "{}"),
    ] {
        let answer = client.ask(&format!(
            r#"{{"execute":"{name}","arguments":{arguments}}}"#
        ));
        assert_eq!(answer, r#"{"return": {}}"#, "{name} {arguments}");
    }
    assert_eq!(
        bench.seen(),
        [
            start(unix("/s"), Some(3), None),
            start(tcp("::1", 10809), None, None),
            Cmd::NbdServerStart(NbdServerStart {
                tls_creds: Some("t".to_owned()),
                ..NbdServerStart::at(unix("/s"))
            }),
            add("virtio0", None, false),
            add("virtio0", Some("x"), true),
            remove("x", false),
            remove("x", true),
            Cmd::BlockExportAdd(Box::new(BlockExportAdd {
                name: Some("n".to_owned()),
                description: Some("d".to_owned()),
                writable: Some(true),
                bitmaps: Some(vec![reference(None, "b"), reference(Some("below"), "c")]),
                ..BlockExportAdd::new(ExportType::Nbd, "e", "#block1")
            })),
            Cmd::BlockExportAdd(Box::new(BlockExportAdd {
                addr: Some(SocketAddress {
                    kind: Some(SocketAddressType::Unix),
                    path: Some("/v".into()),
                    ..SocketAddress::default()
                }),
                num_queues: Some(4),
                writable: Some(true),
                ..BlockExportAdd::new(ExportType::VhostUserBlk, "v", "#block1")
            })),
            Cmd::NbdServerStop,
        ]
    );
}

#[test]
fn qmp_refuses_what_it_does_not_know() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    for (name, arguments, expected) in [
        (
            "nbd-server-start",
            r#"{"addr":"unix:/s"}"#,
            "expected: object",
        ),
        (
            "nbd-server-start",
            r#"{"addr":{}}"#,
            "'addr.type' is missing",
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"fd","data":{}}}"#,
            "does not accept value 'fd'",
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"unix","data":{}}}"#,
            "'addr.data.path' is missing",
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"inet","data":{"host":"h","port":"nbd"}}}"#,
            "'nbd' is not a TCP port",
        ),
        (
            "nbd-server-start",
            r#"{"addr":{"type":"unix","data":{"path":"/s"}},"tls-authz":"t"}"#,
            "tls-authz is not available",
        ),
        (
            "block-export-add",
            r#"{"type":"nbd","id":"e","node-name":"n","bitmaps":[7]}"#,
            "Invalid parameter type for 'bitmaps[0]'",
        ),
        (
            "block-export-add",
            r#"{"type":"nbd","id":"e","node-name":"n","bitmaps":[{"node":"n"}]}"#,
            "Parameter 'bitmaps[0].name' is missing",
        ),
        (
            "block-export-add",
            r#"{"type":"fuse","id":"e","node-name":"n"}"#,
            "does not accept value",
        ),
        (
            "block-export-add",
            r#"{"type":"vhost-user-blk","id":"e","node-name":"n"}"#,
            "'addr.path' is missing",
        ),
        (
            "block-export-add",
            r#"{"type":"vhost-user-blk","id":"e","node-name":"n","addr":{"type":"unix","path":"/s"},"num-queues":65}"#,
            "'num-queues' expects 1 to 64",
        ),
        (
            "block-export-del",
            r#"{"id":"e","mode":"soft"}"#,
            "does not accept value 'soft'",
        ),
    ] {
        let answer = client.ask(&format!(
            r#"{{"execute":"{name}","arguments":{arguments}}}"#
        ));
        assert!(answer.contains(expected), "{name} {arguments}: {answer}");
    }
    assert_eq!(bench.seen(), []);
}

#[test]
fn qmp_lists_exports_and_tells_of_their_end() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    assert_eq!(
        client.ask(r#"{"execute":"query-block-exports"}"#),
        r##"{"return": [{"node-name": "#block123", "shutting-down": false, "type": "nbd", "id": "exp0"}]}"##
    );
    let event = client.ask(r#"{"execute":"block-export-del","arguments":{"id":"exp0"}}"#);
    assert!(
        event.contains(r#""event": "BLOCK_EXPORT_DELETED", "data": {"id": "exp0"}"#),
        "{event}"
    );
    assert_eq!(client.line(), r#"{"return": {}}"#);
}

#[test]
fn hmp_lines_reach_the_machine() {
    let bench = Bench::new();
    let mut client = Client::hmp(&bench.hmp);
    for (line, expected) in [
        ("nbd_server_start unix:/s", ""),
        ("nbd_server_start localhost:10809", ""),
        ("nbd_server_start -a -w tcp:[::1]:10809", ""),
        (
            "nbd_server_start -w unix:/s",
            "Error: -w only valid together with -a\r\n",
        ),
        (
            "nbd_server_start nowhere",
            "Error: 'nowhere' is not an address: use unix:PATH or tcp:HOST:PORT\r\n",
        ),
        ("nbd_server_add virtio0", ""),
        ("nbd_server_add -w virtio0 x", ""),
        ("nbd_server_remove x", ""),
        ("nbd_server_remove -f x", ""),
        ("nbd_server_stop", ""),
    ] {
        client.send(format!("{line}\n"));
        assert_eq!(client.until(PROMPT), expected, "{line}");
    }
    assert_eq!(
        bench.seen(),
        [
            start(unix("/s"), None, None),
            start(tcp("localhost", 10809), None, None),
            start(tcp("::1", 10809), None, Some(Writable(true))),
            add("virtio0", None, false),
            add("virtio0", Some("x"), true),
            remove("x", false),
            remove("x", true),
            Cmd::NbdServerStop,
        ]
    );
}
