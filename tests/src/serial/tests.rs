use super::*;
use std::fs::OpenOptions;
use std::io::Write;

fn line(text: &str) -> String {
    let sum = text.bytes().fold(0, |sum, byte| sum ^ byte);
    format!("{text} *{sum:02x}\r\n")
}

#[test]
fn complete_lines_are_taken_in_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    let mut serial = Serial::follow(&path);
    serial.update().unwrap();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(line("STRATA flushed 1,2").as_bytes())
        .unwrap();
    let io = line("STRATA io t=1.5 vda=1/2/3/4 sda=5/6/7/8");
    file.write_all(&io.as_bytes()[..10]).unwrap();
    serial.update().unwrap();
    assert_eq!(serial.flushed, [1, 2]);
    assert!(serial.io.is_empty());
    file.write_all(&io.as_bytes()[10..]).unwrap();
    serial.update().unwrap();
    assert_eq!(serial.io[0].guest_ms, 1500);
    assert_eq!(serial.io[0].disks[1].longest, [5, 6, 7]);
    file.write_all(line("STRATA verified acknowledged=3 newer=2 never=1").as_bytes())
        .unwrap();
    serial.update().unwrap();
    let verified = Verified {
        acknowledged: 3,
        newer: 2,
        never: 1,
    };
    assert_eq!(serial.verified, Some(verified));
}

#[test]
fn a_damaged_line_does_not_count() {
    assert_eq!(
        checked(line("STRATA flushed 1,2").trim()),
        Some("flushed 1,2")
    );
    assert_eq!(checked("STRATA flushed 1,2"), None);
    let damaged = line("STRATA flushed 1,2").replace('2', "3");
    assert_eq!(checked(damaged.trim()), None);
}

#[test]
fn a_failure_in_the_guest_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    std::fs::write(&path, line("STRATA FAIL read of vda")).unwrap();
    let error = Serial::follow(&path).update().unwrap_err();
    assert!(error.to_string().contains("read of vda"));
}

#[test]
fn the_kernel_says_when_a_disk_has_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    let said = "[    9.5] virtio_blk virtio1: [vda] new size: 1048576 512-byte logical blocks \
                (537 MB/512 MiB)\r\n";
    std::fs::write(&path, said).unwrap();
    let mut serial = Serial::follow(&path);
    serial.update().unwrap();
    assert_eq!(serial.new_size, Some(512 << 20));
}
