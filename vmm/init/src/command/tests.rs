use super::*;
use crate::plan::RootDisk;

/// What is said of a command in a root with these files.
fn said(name: &str, disk: Option<RootDisk>, files: &[&str]) -> (u8, String) {
    let root = std::env::temp_dir()
        .join(format!("strata-init-{}-{name}", std::process::id()).replace('/', "-"));
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let plan = Plan {
        root: disk,
        command: vec![name.into()],
        ..Plan::default()
    };
    let said = refusal(&plan, &root, &ErrorKind::NotFound.into());
    let _ = fs::remove_dir_all(&root);
    said
}

#[test]
fn who_mistypes_a_command_is_told_so() {
    let expected = "unmae: command not found in the guest";
    assert_eq!(
        said("unmae", None, &["bin/busybox"]),
        (127, expected.into())
    );
    assert_eq!(
        said("unmae", Some(RootDisk::Virtio), &["bin/sh"]),
        (127, expected.into())
    );
}

#[test]
fn a_host_without_busybox_is_the_reason_for_no_commands_at_all() {
    let (status, why) = said("uname", None, &["init"]);
    assert_eq!(status, 127);
    assert!(
        why.contains("which has none: the host has no static busybox"),
        "{why}"
    );
}

#[test]
fn a_program_without_its_loader_is_there() {
    let (status, why) = said("/src/program", None, &["bin/busybox", "src/program"]);
    assert_eq!(status, 127);
    assert!(
        why.starts_with("/src/program: it is there, but not what it is started by"),
        "{why}"
    );
}

#[test]
fn what_cannot_be_executed_says_why() {
    let plan = Plan {
        command: vec!["/etc/motd".into()],
        ..Plan::default()
    };
    let (status, why) = refusal(&plan, Path::new("/"), &ErrorKind::PermissionDenied.into());
    assert_eq!(
        (status, why.as_str()),
        (126, "/etc/motd: permission denied")
    );
}
