use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::qcow2::layout::geometry::Geometry;

fn area(cluster_bits: u32) -> HeaderArea {
    let geometry = Geometry {
        version: 3,
        cluster_bits,
        extended_l2: false,
        refcount_order: 4,
        external_data: false,
    };
    let header = Header::new(geometry, 1 << 20);
    HeaderArea {
        header,
        extensions: Extensions::for_new_image(),
        backing_name: None,
    }
}

fn named(name: &str) -> Backing {
    Backing {
        name: name.into(),
        format: Some("qcow2".into()),
    }
}

fn write(cluster: &mut [u8], layout: &Layout) {
    if let Some((offset, bytes)) = &layout.tail {
        cluster[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    cluster[..layout.head.len()].copy_from_slice(&layout.head);
}

#[test]
fn a_name_is_found_again() {
    for bits in [9, 12, 16] {
        let mut cluster = vec![0; 1 << bits];
        for len in [1, 7, 200, 350] {
            let mut area = area(bits);
            area.set_backing(Some(&named(&"n".repeat(len)))).unwrap();
            write(&mut cluster, &area.layout());
            assert_eq!(HeaderArea::parse(&cluster), Ok(area));
        }
    }
}

#[test]
fn feature_names_stay_as_long_as_they_fit_the_first_sector() {
    let mut area = area(16);
    area.set_backing(None).unwrap();
    assert_eq!(area.extensions.feature_names(1), "dirty bit");
    area.set_backing(Some(&named("b"))).unwrap();
    assert_ne!(area.extensions.feature_names(1), "dirty bit");
    assert_eq!(area.layout().head.len(), 512);
}

#[test]
fn a_new_name_does_not_touch_the_old_one() {
    let mut area = area(16);
    area.set_backing(Some(&named(&"old".repeat(200)))).unwrap();
    let mut before = vec![0; 1 << 16];
    write(&mut before, &area.layout());
    let old = area.backing();
    for len in [600, 900, 1023] {
        let mut new = area.clone();
        new.set_backing(Some(&named(&"z".repeat(len)))).unwrap();
        // The new tail is there, the first sector is still the old one.
        let mut torn = before.clone();
        if let Some((offset, bytes)) = new.layout().tail {
            torn[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(HeaderArea::parse(&torn).unwrap().backing(), old);
    }
}

#[test]
fn names_that_make_no_sense_are_refused() {
    let mut image = area(12);
    image.set_backing(Some(&named("base"))).unwrap();
    let mut cluster = vec![0; 4096];
    write(&mut cluster, &image.layout());
    let (offset, _) = image.header.backing.unwrap();
    let mut wrong = cluster.clone();
    wrong[offset as usize] = 0;
    let said = HeaderArea::parse(&wrong).unwrap_err();
    assert!(said.contains("none that a file can have"));
    // Names are bytes.
    wrong[offset as usize] = 0xff;
    let read = HeaderArea::parse(&wrong).unwrap();
    let name = read.backing().unwrap().name;
    assert_eq!(name.as_bytes(), b"\xffase");
    let mut again = vec![0; 4096];
    write(&mut again, &read.layout());
    assert_eq!(again, wrong);
    let mut wrong = cluster.clone();
    wrong[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(HeaderArea::parse(&wrong).unwrap_err().contains("outside"));
    let mut wrong = cluster.clone();
    wrong[8..16].copy_from_slice(&50u64.to_be_bytes());
    assert!(HeaderArea::parse(&wrong).is_err());
    let mut wrong = cluster;
    wrong[16..20].copy_from_slice(&1024u32.to_be_bytes());
    assert!(HeaderArea::parse(&wrong).unwrap_err().contains("1024"));
}
