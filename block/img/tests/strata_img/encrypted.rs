//! Encrypted images: said to be that, and shown as far as that goes without a key.

use crate::{Directory, read, same_output::assert_same, text};

/// A qcow2 image with the encryption that only old ones have.
fn aes() -> Directory {
    let directory = Directory::new();
    let key = ["--object", "secret,id=key,data=abc"];
    let options = "encrypt.format=aes,encrypt.key-secret=key";
    let create = [
        "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", "1M",
    ];
    directory.qemu(&[&create[..1], &key, &create[1..]].concat());
    directory
}

#[test]
fn info_shows_what_needs_no_key() {
    let directory = aes();
    for output in ["--output=human", "--output=json"] {
        assert_same(&directory, &["info", output, "a.qcow2"]);
    }
    // LUKS, of which no more than the method is in the header.
    directory.poke("a.qcow2", 32, &[0, 0, 0, 2]);
    let info = directory.ok("strata-img", &["info", "a.qcow2"]);
    assert!(info.contains("\nencrypted: yes\n"), "{info}");
    assert!(
        info.contains("    encrypt:\n        format: luks\n"),
        "{info}"
    );
}

#[test]
fn everything_else_is_refused() {
    let directory = aes();
    for (method, name) in [(1, "AES (the old encryption of qcow2)"), (2, "LUKS")] {
        directory.poke("a.qcow2", 32, &[0, 0, 0, method]);
        let before = read(&directory.path("a.qcow2"));
        for command in [&["check"][..], &["map"], &["convert", "-O", "raw"]] {
            let target: &[&str] = if command.len() > 1 { &["out"] } else { &[] };
            let output = directory.run("strata-img", &[command, &["a.qcow2"], target].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains(&format!("is encrypted with {name}, which is not supported")),
                "{said}"
            );
        }
        assert!(before == read(&directory.path("a.qcow2")));
    }
}

/// A raw disk whose guest has encrypted it starts with the same bytes.
#[test]
fn a_luks_container_is_not_taken_for_a_raw_disk_unless_told() {
    let directory = Directory::new();
    let mut bytes = vec![0; 1 << 20];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    std::fs::write(directory.path("disk"), &bytes).unwrap();
    for command in ["info", "map", "check"] {
        let output = directory.run("strata-img", &[command, "disk"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("is a LUKS container, and encrypted images are not supported"),
            "{said}"
        );
    }
    let info = directory.ok("strata-img", &["info", "-f", "raw", "disk"]);
    assert!(info.contains("file format: raw"), "{info}");
}
