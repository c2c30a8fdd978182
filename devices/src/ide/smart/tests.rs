use super::*;

fn is_whole(data: &[u8]) -> bool {
    data.len() == LEN && data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Identifier, value, threshold and raw value of each attribute.
fn attributes(smart: &Smart) -> Vec<(u8, u8, u8, u8)> {
    let (data, thresholds) = (smart.data(), smart.thresholds());
    assert!(is_whole(&data) && is_whole(&thresholds));
    let entries = (0..30).map(entry).filter(|&at| data[at] != 0);
    entries
        .map(|at| {
            assert_eq!(data[at], thresholds[at]);
            (data[at], data[at + 3], thresholds[at + 1], data[at + 5])
        })
        .collect()
}

#[test]
fn no_attribute_is_below_its_threshold() {
    let attributes = attributes(&Smart::new());
    assert!(
        attributes
            .iter()
            .all(|(_, value, threshold, _)| value > threshold)
    );
    let raw = |wanted| attributes.iter().find(|a| a.0 == wanted).unwrap().3;
    assert_eq!((raw(9), raw(12), raw(190)), (0, 1, 31));
}

#[test]
fn self_tests_are_remembered_and_the_oldest_are_forgotten() {
    let mut smart = Smart::new();
    let empty = smart.log(6, 1).unwrap();
    assert!(is_whole(&empty));
    assert_eq!(empty[508], 0);
    for kind in [1, 2, 0x81, 0x82, 0x7f, 0] {
        smart.execute(kind).unwrap();
    }
    assert_eq!(smart.data()[362], 2, "the off-line routine has run");
    let log = smart.log(6, 1).unwrap();
    assert_eq!(
        (log[2], log[26], log[50], log[74], log[508]),
        (1, 2, 0x81, 0x82, 4)
    );
    for _ in 0..30 {
        smart.execute(2).unwrap();
    }
    let log = smart.log(6, 1).unwrap();
    assert!(is_whole(&log));
    assert_eq!((log[2], log[508]), (2, 21));
    for unknown in [3, 4, 0x83, 0xff] {
        assert_eq!(smart.execute(unknown), Err(Invalid));
    }
}

#[test]
fn failed_commands_are_logged() {
    let mut smart = Smart::new();
    assert_eq!(smart.log(1, 1).unwrap()[1], 0);
    for lba in 0..7 {
        let command = CommandRecord {
            registers: [0, 1, lba, 0, 0, 0xe0],
            code: 0x20,
            milliseconds: 1000,
        };
        smart.failed(command, [0x40, 1, lba, 0, 0, 0xe0, 0x51]);
    }
    let log = smart.log(1, 1).unwrap();
    assert!(is_whole(&log));
    assert_eq!((log[1], log[452]), (5, 7));
    // The last of them: its command, and how it ended.
    let last = &log[2 + 4 * 90..][..90];
    assert_eq!(last[48..60], [0, 0, 1, 6, 0, 0, 0xe0, 0x20, 0xe8, 3, 0, 0]);
    assert_eq!(last[60..68], [0, 0x40, 1, 6, 0, 0, 0xe0, 0x51]);
    let unreadable = attributes(&smart).iter().find(|a| a.0 == 187).unwrap().3;
    assert_eq!(unreadable, 7);
}

#[test]
fn there_are_three_logs_of_a_sector_each() {
    let smart = Smart::new();
    let directory = smart.log(0, 1).unwrap();
    let sizes: Vec<_> = directory.chunks(2).map(|entry| entry[0]).collect();
    assert_eq!((sizes[1], sizes[6]), (1, 1));
    assert_eq!(sizes[1..].iter().filter(|size| **size != 0).count(), 2);
    for (address, sectors) in [(2, 1), (0x80, 1), (1, 2), (1, 0)] {
        assert_eq!(smart.log(address, sectors), Err(Invalid));
    }
}
