//! The `strata` program as people meet it where no guest can run: exit codes, and one clear line.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn strata(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(args)
        .output()
        .unwrap()
}

/// Standard error, after checking the exit code.
fn fails(code: i32, args: &[&str]) -> String {
    let output = strata(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

/// The one line of a failure.
fn line(args: &[&str]) -> String {
    let code = if args[0] == "run" { 125 } else { 1 };
    let stderr = fails(code, args);
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        &["--help"][..],
        &["run", "--help"],
        &["test", "--help"],
        &["ctl", "--help"],
        &["ctl", "qmp", "snapshot", "--help"],
        &["ctl", "qmp", "merge", "--help"],
        &["ctl", "qmp", "commit", "--help"],
        &["doctor", "--help"],
    ] {
        let output = strata(command);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let shown = ["Example:\n  strata ", "Examples:\n  strata "];
        let has_one = shown.iter().any(|start| text.contains(start));
        assert!(has_one, "{command:?}: {text}");
    }
}

#[test]
fn wrong_usage_is_two() {
    for (args, wanted) in [
        (&[][..], "Usage"),
        (&["fly"], "'fly'"),
        (&["run"], "--kernel"),
        (&["run", "--kernel", "k", "--colour"], "--colour"),
        (&["run", "--disk", "file=a", "--append", "b"], "--kernel"),
        (&["run", "--disk", "file=a", "--initrd", "b"], "--kernel"),
        (
            &["run", "--disk", "file=a,bootindex=first"],
            "bootindex=first: expected a number from 0 on",
        ),
        (
            &["run", "--kernel", "k", "--disk", "file=a,size=3"],
            "unknown key 'size'",
        ),
        (
            &[
                "run",
                "--kernel",
                "k",
                "--qmp",
                "stdio",
                "--monitor",
                "stdio",
            ],
            "only one of",
        ),
    ] {
        let stderr = fails(2, args);
        assert!(stderr.contains(wanted), "{args:?}: {stderr}");
    }
}

#[test]
fn a_missing_kernel_is_named() {
    assert_eq!(
        line(&["run", "--kernel", "/nonexistent/vmlinuz"]),
        "strata: could not open the kernel '/nonexistent/vmlinuz': No such file or directory (os error 2)"
    );
}

// Both may be given: firmware starts the kernel.
#[test]
fn a_missing_firmware_is_named_beside_a_kernel() {
    assert_eq!(
        line(&["run", "--kernel", "k", "--firmware", "/nonexistent/bios"]),
        "strata: could not open the firmware '/nonexistent/bios': No such file or directory (os error 2)"
    );
}

#[test]
fn a_file_that_is_no_kernel_is_told_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    std::fs::write(&path, [b'x'; 4096]).unwrap();
    let text = line(&["run", "--kernel", path.to_str().unwrap()]);
    assert!(
        text.contains("is not a kernel that can be booted"),
        "{text}"
    );
}

#[test]
fn firmware_is_told_from_other_files() {
    let run = |file: &str| line(&["run", "--firmware", file, "--disk", "file=/nonexistent/d"]);
    assert_eq!(
        run("/nonexistent/bios"),
        "strata: could not open the firmware '/nonexistent/bios': No such file or directory (os error 2)"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bios");
    std::fs::write(&path, [0; 4096]).unwrap();
    let text = run(path.to_str().unwrap());
    assert!(
        text.contains("is not firmware: it has 4096 bytes"),
        "{text}"
    );
}

#[test]
fn the_doctor_s_exit_code_is_what_it_says_of_kvm() {
    let dir = tempfile::tempdir().unwrap();
    let output = strata(&["doctor", dir.path().to_str().unwrap()]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let first = stdout.lines().next().unwrap();
    match output.status.code() {
        Some(0) => assert_eq!(first, "KVM: usable"),
        Some(1) => {
            assert_eq!(first, "KVM: not usable");
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(
                stderr.starts_with("strata: ") && stderr.contains("/dev/kvm"),
                "{stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        code => panic!("exit code {code:?}"),
    }
    for wanted in ["threads: works", "io_uring: ", "holes", "extents"] {
        assert!(stdout.contains(wanted), "{stdout}");
    }
}

#[test]
fn the_doctor_wants_a_directory_that_can_be_written() {
    let stderr = fails(1, &["doctor", "/nonexistent/directory"]);
    // Where KVM is not usable either, that comes first.
    assert!(
        stderr.contains("'/nonexistent/directory'") || stderr.contains("/dev/kvm"),
        "{stderr}"
    );
}
