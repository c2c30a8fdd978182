//! Commands as text, and what is refused in them.

use serde_json::{Value, json};
use strata_storage::nbd::wire::Address;

use super::super::{
    BitmapRef, BlockDirtyBitmapMerge, BlockExportAdd, BlockResize, BlockStream, ExportType,
    NbdServerStart, OnError, SocketAddress,
};
use super::Cmd;

/// Every kind of argument.
fn samples() -> Vec<Cmd> {
    let name = |name: &str| name.to_owned();
    let reference = |node: Option<&str>| BitmapRef {
        node: node.map(str::to_owned),
        name: name("b"),
    };
    let tcp = Address::Tcp {
        host: name("::1"),
        port: 10809,
    };
    vec![
        Cmd::QueryBlock,
        Cmd::BlockStream(BlockStream {
            device: name("virtio0"),
            speed: Some(1 << 40),
            on_error: Some(OnError::Enospc),
            auto_dismiss: Some(false),
            ..BlockStream::default()
        }),
        Cmd::BlockDirtyBitmapMerge(BlockDirtyBitmapMerge {
            node: name("n"),
            target: name("t"),
            bitmaps: vec![reference(None), reference(Some("m"))],
        }),
        Cmd::NbdServerStart(NbdServerStart {
            max_connections: Some(3),
            ..NbdServerStart::at(tcp)
        }),
        Cmd::BlockExportAdd(Box::new(BlockExportAdd {
            addr: Some(SocketAddress {
                path: Some("/run/s".into()),
                ..SocketAddress::default()
            }),
            num_queues: Some(4),
            ..BlockExportAdd::new(ExportType::VhostUserBlk, "e", "n")
        })),
    ]
}

#[test]
fn commands_survive_as_text() {
    for cmd in samples() {
        let text = serde_json::to_string(&cmd).unwrap();
        assert_eq!(serde_json::from_str::<Cmd>(&text).unwrap(), cmd, "{text}");
    }
}

#[test]
fn a_command_reads_its_arguments_as_its_text_has_them() {
    for cmd in samples() {
        let text: Value = serde_json::to_value(&cmd).unwrap();
        assert_eq!(text["execute"], cmd.name());
        let arguments = text.get("arguments").cloned().unwrap_or(json!({}));
        let read = Cmd::parse(cmd.name(), arguments).unwrap().unwrap();
        assert_eq!(read, cmd);
    }
}

#[test]
fn no_two_commands_have_one_name() {
    let mut names = Cmd::NAMES.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Cmd::NAMES.len());
    assert!(Cmd::parse("nosuch", json!({})).is_none());
}

#[test]
fn unknown_arguments_are_refused_by_every_command() {
    // Each is refused for what it lacks, or, where nothing is required, for what it does not know.
    for name in Cmd::NAMES {
        let read = Cmd::parse(name, json!({"no-such-argument": 1})).unwrap();
        assert!(read.is_err(), "{name}: {read:?}");
    }
    let stream = json!({"device": "d", "no-such-argument": 1});
    let error = Cmd::parse("block-stream", stream).unwrap().unwrap_err();
    assert!(error.to_string().contains("no-such-argument"), "{error}");
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    let resize = Cmd::BlockResize(BlockResize::default());
    assert_eq!(
        resize.check().unwrap_err().desc,
        "Cannot find device='' nor node-name=''"
    );
    let stream = Cmd::BlockStream(BlockStream {
        base: Some("a".to_owned()),
        base_node: Some("b".to_owned()),
        ..BlockStream::default()
    });
    let error = stream.check().unwrap_err().desc;
    assert!(error.contains("cannot be specified at the same time"));
    let export = BlockExportAdd::new(ExportType::VhostUserBlk, "e", "n");
    let error = Cmd::BlockExportAdd(Box::new(export))
        .check()
        .unwrap_err()
        .desc;
    assert_eq!(error, "Parameter 'addr.path' is missing");
}

#[test]
fn numbers_below_zero_are_refused() {
    let set_speed = |speed: i64| {
        let arguments = json!({"device": "d", "speed": speed});
        Cmd::parse("block-job-set-speed", arguments).unwrap()
    };
    assert!(set_speed(0).is_ok());
    let error = set_speed(-1).unwrap_err();
    assert!(error.to_string().contains("non-negative"), "{error}");
}
