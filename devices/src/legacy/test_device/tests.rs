use std::sync::Mutex;

use super::*;
use crate::legacy::doubles::FakeLine;

#[test]
fn what_is_written_is_kept_whatever_the_width() {
    let mut ports = Kept::new(Kept::PORTS_LEN);
    ports.write(0, &0x1234_5678u32.to_le_bytes());
    ports.write(1, &[0xaa]);
    ports.write(2, &0xbbccu16.to_le_bytes());
    let mut all = [0; 4];
    ports.read(0, &mut all);
    assert_eq!(u32::from_le_bytes(all), 0xbbcc_aa78);
    let mut behind = [1];
    ports.read(9, &mut behind);
    ports.write(9, &[2]);
    assert_eq!(behind, [1], "nothing is there");
}

#[test]
fn a_line_has_the_level_that_was_written_to_its_port() {
    let made: Mutex<Vec<Arc<FakeLine>>> = Mutex::default();
    let mut lines = DrivenLines::new(|_| {
        let line = Arc::new(FakeLine::default());
        made.lock().unwrap().push(line.clone());
        line
    });
    let made = made.into_inner().unwrap();
    assert_eq!(made.len() as u64, DrivenLines::LEN);
    lines.write(14, &[1]);
    lines.write(24, &[1]);
    let high: Vec<_> = (0..24).filter(|&line| made[line].is_high()).collect();
    assert_eq!(high, [14]);
    lines.write(14, &[0]);
    assert!(!made[14].is_high());
}

#[test]
fn a_page_is_named_by_four_bytes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pages = Arc::clone(&seen);
    let mut port = FlushPort(Box::new(move |page| pages.lock().unwrap().push(page)));
    port.write(0, &0xfeed_f000u32.to_le_bytes());
    port.write(0, &[1]);
    port.write(1, &0u32.to_le_bytes());
    assert_eq!(*seen.lock().unwrap(), [0xfeed_f000]);
}
