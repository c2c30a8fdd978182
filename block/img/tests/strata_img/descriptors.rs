//! Chains with more layers than the shell lets a program open files.

use crate::{Directory, text};

#[test]
fn a_chain_may_be_longer_than_the_soft_limit() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "0", "1M"]);
    for layer in 1..60 {
        let below = (layer - 1).to_string();
        let name = layer.to_string();
        let args = ["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"];
        directory.qemu(&[&args[..], &[&below, &name, "1M"]].concat());
    }
    let program = env!("CARGO_BIN_EXE_strata-img");
    for command in ["info --backing-chain -f qcow2", "check -f qcow2"] {
        let limited = format!("ulimit -Sn 40; exec {program} {command} 59");
        let output = directory.run("bash", &["-c", &limited]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}
