use super::*;

const STAMP: Stamp = Stamp {
    seed: 77,
    disk: 1,
    unit: 4242,
    op: 17,
};

fn written(stamp: Stamp) -> Unit {
    let mut unit = Unit::new_zeroed();
    unit.fill(stamp);
    unit
}

#[test]
fn a_written_unit_is_recognised() {
    let unit = written(STAMP);
    assert!(unit.holds(Some(STAMP)));
    assert_eq!(unit.identify(), Content::Intact(STAMP));
    assert!(Unit::new_zeroed().holds(None));
    assert_eq!(Unit::new_zeroed().identify(), Content::Zeros);
}

#[test]
fn every_part_of_the_stamp_matters() {
    let unit = written(STAMP);
    for other in [
        Stamp { seed: 78, ..STAMP },
        Stamp { disk: 0, ..STAMP },
        Stamp {
            unit: 4243,
            ..STAMP
        },
        Stamp { op: 16, ..STAMP },
    ] {
        assert!(!unit.holds(Some(other)), "{other}");
        // Not only the header differs: a sector of the one is never taken for one of the other.
        let theirs = written(other);
        let sectors = unit
            .as_bytes()
            .chunks(512)
            .zip(theirs.as_bytes().chunks(512));
        assert!(sectors.into_iter().all(|(a, b)| a != b), "{other}");
    }
}

#[test]
fn any_changed_byte_is_found() {
    for byte in [0, 8, 16, 24, 32, 40, 511, 512, 2048, 4095] {
        let mut unit = written(STAMP);
        unit.as_mut_bytes()[byte] ^= 0x10;
        assert!(!unit.holds(Some(STAMP)), "byte {byte}");
        assert_ne!(unit.identify(), Content::Intact(STAMP), "byte {byte}");
    }
}

#[test]
fn a_torn_unit_says_where() {
    let mut unit = written(STAMP);
    let newer = written(Stamp { op: 18, ..STAMP });
    unit.as_mut_bytes()[1024..].copy_from_slice(&newer.as_bytes()[1024..]);
    assert_eq!(unit.identify(), Content::Torn(STAMP, 1024));
}

#[test]
fn foreign_bytes_are_not_ours() {
    let mut unit = Unit::new_zeroed();
    unit.as_mut_bytes().fill(0xaa);
    assert!(matches!(unit.identify(), Content::Foreign(_)));
}
