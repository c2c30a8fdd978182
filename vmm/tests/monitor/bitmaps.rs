//! The commands about dirty bitmaps: what they ask of the machine.

use strata_block::api::{
    BitmapRef, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, Cmd,
};
use strata_vmm::monitor::Action;

use crate::client::Client;
use crate::fake::Bench;

#[test]
fn qmp_arguments_reach_the_machine() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let plain = r#""node":"n","name":"b""#;
    let add = |granularity, persistent, disabled| {
        Cmd::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd {
            node: "n".to_owned(),
            name: "b".to_owned(),
            granularity,
            persistent,
            disabled,
        })
    };
    let bitmap = || BlockDirtyBitmap {
        node: "n".to_owned(),
        name: "b".to_owned(),
    };
    let source = |node: Option<&str>, name: &str| BitmapRef {
        node: node.map(str::to_owned),
        name: name.to_owned(),
    };
    let cases = [
        ("add", plain.to_owned(), add(None, None, None)),
        (
            "add",
            format!(r#"{plain},"granularity":4096,"persistent":true,"disabled":true"#),
            add(Some(4096), Some(true), Some(true)),
        ),
        (
            "remove",
            plain.to_owned(),
            Cmd::BlockDirtyBitmapRemove(bitmap()),
        ),
        (
            "clear",
            plain.to_owned(),
            Cmd::BlockDirtyBitmapClear(bitmap()),
        ),
        (
            "enable",
            plain.to_owned(),
            Cmd::BlockDirtyBitmapEnable(bitmap()),
        ),
        (
            "disable",
            plain.to_owned(),
            Cmd::BlockDirtyBitmapDisable(bitmap()),
        ),
        (
            "merge",
            r#""node":"n","target":"b","bitmaps":["c",{"node":"m","name":"d"}]"#.to_owned(),
            Cmd::BlockDirtyBitmapMerge(BlockDirtyBitmapMerge {
                node: "n".to_owned(),
                target: "b".to_owned(),
                bitmaps: vec![source(None, "c"), source(Some("m"), "d")],
            }),
        ),
    ];
    let mut expected = Vec::new();
    for (command, arguments, cmd) in cases {
        let answer = client.ask(&format!(
            r#"{{"execute":"block-dirty-bitmap-{command}","arguments":{{{arguments}}}}}"#
        ));
        assert_eq!(answer, r#"{"return": {}}"#, "{command} {arguments}");
        expected.push(cmd);
    }
    let state = bench.state.lock().unwrap();
    let seen = state.seen.iter().filter_map(|action| match action {
        Action::Block(cmd) => Some(Cmd::clone(cmd)),
        _ => None,
    });
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn qmp_refuses_what_it_does_not_know() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    for (command, arguments, expected) in [
        ("add", r#"{"node":"n"}"#, "Parameter 'name' is missing"),
        (
            "add",
            r#"{"node":"n","name":"b","granularity":-1}"#,
            "Parameter 'granularity' expects uint32_t",
        ),
        (
            "merge",
            r#"{"node":"n","target":"b","bitmaps":"c"}"#,
            "Invalid parameter type for 'bitmaps', expected: array",
        ),
        (
            "merge",
            r#"{"node":"n","target":"b","bitmaps":[{"node":"c"}]}"#,
            "Parameter 'bitmaps[0].name' is missing",
        ),
    ] {
        let answer = client.ask(&format!(
            r#"{{"execute":"block-dirty-bitmap-{command}","arguments":{arguments}}}"#
        ));
        assert!(answer.contains(expected), "{command}: {answer}");
    }
}
