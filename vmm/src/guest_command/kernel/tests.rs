use std::io::Write;

use super::*;

#[test]
fn the_highest_version_is_the_newest() {
    let all = [
        "vmlinuz-6.9.0-1-amd64",
        "vmlinuz-6.10.0-1-amd64",
        "config-7.0",
        "vmlinuz-5.10.0",
    ];
    let paths = all.iter().map(PathBuf::from);
    assert_eq!(newest(paths), Some("vmlinuz-6.10.0-1-amd64".into()));
    assert_eq!(newest(std::iter::empty()), None);
}

fn image(version: &[u8]) -> File {
    let mut bytes = vec![0; 0x400];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    bytes[0x300..0x300 + version.len()].copy_from_slice(version);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn the_version_is_the_first_word() {
    let text = b"6.1.0-57-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP\0";
    assert_eq!(
        version(&image(text)).as_deref(),
        Some("6.1.0-57-cloud-amd64")
    );
    for text in [&b"../../etc x"[..], b"a/b", b".", b"\0"] {
        assert_eq!(version(&image(text)), None, "{text:?}");
    }
    assert_eq!(version(&tempfile::tempfile().unwrap()), None);
}

#[test]
fn kernels_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let boot = directory.path();
    let none = in_directory(&boot.join("none")).unwrap_err();
    let advice = "no kernel was found in /boot: give one with --kernel FILE";
    assert_eq!(none.to_string(), advice);
    assert_eq!(in_directory(boot).unwrap_err().to_string(), advice);
    for version in ["6.9", "6.10"] {
        let name = boot.join(format!("vmlinuz-{version}"));
        std::os::unix::fs::symlink("nowhere", name).unwrap();
    }
    let error = in_directory(boot).unwrap_err().to_string();
    assert!(
        error.contains("vmlinuz-6.10") && error.contains("chmod a+r"),
        "{error}"
    );
    let readable = boot.join("vmlinuz-6.8");
    std::fs::write(&readable, "").unwrap();
    assert_eq!(in_directory(boot).unwrap(), readable);
}
