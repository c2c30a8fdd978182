//! A host that lets no file grow further.

use std::process::Command;

use crate::{
    DISK, EXPORT,
    process::{Serve, Signal, client, qemu_img},
};

/// What a client gets in answer to a write to the whole disk.
fn write_all(uri: &str) -> Result<(), String> {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", "-c", "write -P 7 0 64M", "-c", "flush", uri]);
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn a_file_at_its_size_limit_is_as_a_full_disk() {
    let mut serve = Serve::start(&["--disk", DISK, "--export", EXPORT]);
    let uri = serve.uri("root");
    // Where the first clusters come, and in the middle of one.
    for limit in [300 << 10, (20 << 20) + 1000] {
        serve.limit_files(Some(limit));
        let error = write_all(&uri).unwrap_err();
        assert!(error.contains("No space left on device"), "{error}");
    }
    serve.limit_files(None);
    write_all(&uri).unwrap();
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(0));
    let image = serve.path("disk.qcow2");
    qemu_img(&["check", "-f", "qcow2", &image]);
    client("qemu-io", &["-r", "-c", "read -P 7 0 64M", &image]);
}
