//! Targets on a device that cannot store some blocks: no command says that it has made what is
//! lost.

use crate::{Directory, lossy::LossyDevice};

/// 16 MiB of data, raw and as qcow2.
fn images() -> Directory {
    let directory = Directory::new();
    std::fs::write(directory.path("full.raw"), vec![1; 16 << 20]).unwrap();
    directory.qemu(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "full.raw",
        "full.qcow2",
    ]);
    directory
}

#[test]
fn no_command_says_that_it_has_written_what_is_lost() {
    let commands = [
        "convert -t writeback -f raw -O raw full.raw TARGET",
        "convert -t writeback -f qcow2 -O qcow2 full.qcow2 TARGET",
        "convert -t writethrough -f raw -O qed full.raw TARGET",
        "convert -t none -f raw -O raw full.raw TARGET",
        "convert -t writeback -C -f raw -O raw full.raw TARGET",
        "commit -q -f qcow2 -b TARGET top.qcow2",
        "rebase -q -f qcow2 -F qcow2 -b EMPTY TARGET",
        "resize -q -f raw --preallocation=full TARGET 20M",
    ];
    for command in commands {
        let Some(mut device) = LossyDevice::new(32, 8..10) else {
            return;
        };
        let directory = images();
        let target = device.directory().join("target").display().to_string();
        match command.split(' ').next() {
            Some("commit") => {
                directory.qemu(&["create", "-q", "-f", "raw", &target, "16M"]);
                let name = ["create", "-q", "-f", "qcow2", "-b", &target, "-F", "raw"];
                directory.qemu(&[&name[..], &["top.qcow2"]].concat());
                directory.qemu_io("top.qcow2", &["write -P 1 0 16M"]);
            }
            Some("rebase") => {
                directory.qemu(&["create", "-q", "-f", "qcow2", "empty.qcow2", "16M"]);
                let base = directory.path("full.raw").display().to_string();
                let name = ["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw"];
                directory.qemu(&[&name[..], &[&target]].concat());
            }
            Some("resize") => {
                directory.qemu(&["create", "-q", "-f", "raw", &target, "1M"]);
            }
            _ => {}
        }
        let empty = directory.path("empty.qcow2").display().to_string();
        let command = command.replace("TARGET", &target).replace("EMPTY", &empty);
        let args: Vec<_> = command.split(' ').collect();
        let output = directory.run("strata-img", &args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {errors}");
        let lost = ["may be lost", "Input/output error", "no space left"];
        let is_reported = lost.iter().any(|words| errors.contains(words));
        assert!(
            is_reported && errors.contains("target"),
            "{command}: {errors}"
        );
    }
}
