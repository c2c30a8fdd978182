//! `query-named-block-nodes`, beside what QEMU says of the same images.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{DISK, process::Serve};

const NESTED: &str = r#"{"execute":"query-named-block-nodes"}"#;
const FLAT: &str = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;

/// The lists in QMP replies, one a line, without what is made up anew each time.
fn lists(replies: &str) -> Vec<Value> {
    let values = replies
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lists = values.filter_map(|mut reply: Value| match reply["return"].take() {
        Value::Array(nodes) => Some(nodes),
        _ => None,
    });
    let known = |nodes: Vec<Value>| {
        // QEMU has the files below the images as nodes, too.
        let images = nodes.into_iter().filter(|node| node["drv"] != "file");
        let nameless = images.map(|mut node| {
            let name = node["node-name"].take();
            assert!(name.as_str().unwrap().starts_with("#block"), "{name}");
            node
        });
        Value::Array(nameless.collect())
    };
    lists.map(known).collect()
}

/// What QEMU answers, started with `args` in the directory of `serve`.
fn qemu(serve: &Serve, args: &[&str]) -> Vec<Value> {
    let mut command = Command::new("timeout");
    command.args(["60", "qemu-system-x86_64", "-machine", "none"]);
    command.args(["-nodefaults", "-display", "none", "-qmp", "stdio"]);
    command.args(args).current_dir(serve.path("."));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let quit = r#"{"execute":"quit"}"#;
    let capabilities = r#"{"execute":"qmp_capabilities"}"#;
    let requests = [capabilities, NESTED, FLAT, quit].join("\n");
    // Stays open: at its end QEMU would stop to answer.
    let mut input = child.stdin.take().unwrap();
    input.write_all(requests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert!(output.status.success());
    lists(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_layer_is_described_as_qemu_does_it() {
    let mut serve = Serve::start(&["--disk", DISK, "--qmp", "unix:qmp"]);
    let mut qmp = serve.qmp();
    for name in ["b.qcow2", "c.qcow2"] {
        let file = serve.path(name);
        let arguments = json!({"device": "root", "snapshot-file": file});
        let command = json!({"execute": "blockdev-snapshot-sync", "arguments": arguments});
        qmp.run(&command.to_string());
    }
    qmp.run(r#"{"execute":"quit"}"#);
    assert_eq!(serve.wait(), Some(0));
    fs::write(serve.path("plain"), vec![1; 1 << 20]).unwrap();

    let top = "file=c.qcow2,format=qcow2,id=root,detect-zeroes=on,cache=writethrough";
    let plain = "file=plain,format=raw,id=plain,readonly=on";
    let mut again = serve.otherwise(&["--disk", top, "--disk", plain, "--qmp", "unix:qmp"]);
    let mut qmp = again.qmp();
    let ours = lists(&[qmp.run(NESTED), qmp.run(FLAT)].concat());
    qmp.run(r#"{"execute":"quit"}"#);
    assert_eq!(again.wait(), Some(0));

    let theirs = qemu(
        &serve,
        &[
            "-drive",
            &format!("{top},if=none"),
            "-drive",
            &format!("{plain},if=none"),
        ],
    );
    assert_eq!(ours.len(), 2);
    assert_eq!(ours[0].as_array().unwrap().len(), 4);
    assert_eq!(ours, theirs);
}
