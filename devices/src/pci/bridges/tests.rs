use std::sync::PoisonError;

use super::*;

/// What has been asked for: address, bytes, whether it can be written to.
type Changes = Arc<Mutex<Vec<(u64, u64, bool)>>>;

fn bridge() -> (SharedPciDevice, Changes) {
    let changes = Changes::default();
    let protect = {
        let changes = Arc::clone(&changes);
        move |segment: Segment, writable| {
            let mut changes = changes.lock().unwrap();
            changes.push((segment.start, segment.len, writable));
        }
    };
    (host_bridge(Box::new(protect)), changes)
}

fn taken(changes: &Changes) -> Vec<(u64, u64, bool)> {
    std::mem::take(&mut *changes.lock().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn segments_are_all_of_the_memory_from_c0000_to_1_mib() {
    let mut segments = SEGMENTS;
    segments.sort_unstable_by_key(|segment| segment.start);
    let mut next = 0xc_0000;
    for segment in segments {
        assert_eq!(segment.start, next);
        next += segment.len;
    }
    assert_eq!(next, 0x10_0000);
}

#[test]
fn what_firmware_protects_cannot_be_written_to() {
    let (bridge, changes) = bridge();
    let mut bridge = bridge.lock().unwrap();
    // As SeaBIOS does: everything, in two accesses of a dword.
    bridge.write_config(0x58, &[0, 0x30, 0x33, 0x33]);
    assert_eq!(taken(&changes).len(), 5);
    bridge.write_config(0x5c, &[0x33; 4]);
    assert_eq!(taken(&changes).len(), 8);
    // Then its own code and data, and a ROM's first half.
    bridge.write_config(0x59, &[0x10]);
    assert_eq!(taken(&changes), [(0xf_0000, 0x1_0000, false)]);
    bridge.write_config(0x5a, &[0x31]);
    assert_eq!(taken(&changes), [(0xc_0000, 0x4000, false)]);
    bridge.write_config(0x5f, &[0x13]);
    assert_eq!(taken(&changes), [(0xe_c000, 0x4000, false)]);
    // Whether reads reach it changes nothing.
    bridge.write_config(0x5f, &[0x03]);
    assert_eq!(taken(&changes), []);
}

#[test]
fn a_reset_protects_everything_and_a_wake_up_nothing_more() {
    let (bridge, changes) = bridge();
    let mut bridge = bridge.lock().unwrap();
    bridge.write_config(0x58, &[0, 0x10, 0x31, 0x33]);
    assert_eq!(taken(&changes).len(), 3);
    bridge.wake_up();
    assert_eq!(taken(&changes), []);
    let mut pam = [0; 4];
    bridge.read_config(0x58, &mut pam);
    assert_eq!(pam, [0, 0x10, 0x31, 0x33]);
    bridge.reset();
    assert_eq!(taken(&changes).len(), 3);
    bridge.reset();
    assert_eq!(taken(&changes), []);
}
