//! Chains with more layers than the shell lets a program open files.

use crate::{Folder, text};

#[test]
fn a_chain_may_be_longer_than_the_soft_limit() {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "qcow2", "0", "1M"]);
    for layer in 1..60 {
        let below = (layer - 1).to_string();
        let name = layer.to_string();
        let args = ["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"];
        folder.qemu(&[&args[..], &[&below, &name, "1M"]].concat());
    }
    let program = env!("CARGO_BIN_EXE_strata-img");
    for command in ["info --backing-chain -f qcow2", "check -f qcow2"] {
        let limited = format!("ulimit -Sn 40; exec {program} {command} 59");
        let output = folder.run("bash", &["-c", &limited]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}
