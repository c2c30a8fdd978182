use super::Extensions;

#[test]
fn unknown_extensions_keep_their_bytes_and_their_order() {
    let mut area = Vec::new();
    for (kind, data) in [
        (0x1111u32, &b"abc"[..]),
        (0x2222, b"12345678"),
        (0x1111, b""),
    ] {
        area.extend_from_slice(&kind.to_be_bytes());
        area.extend_from_slice(&(data.len() as u32).to_be_bytes());
        area.extend_from_slice(data);
        area.resize(area.len().next_multiple_of(8), 0);
    }
    area.extend_from_slice(&[0; 8]);
    let list = Extensions::parse(&[&area[..], &[0xff; 100]].concat()).unwrap();
    assert_eq!(list.to_bytes(), area);
}

#[test]
fn the_backing_format_comes_and_goes() {
    let mut list = Extensions::for_new_image();
    assert_eq!(list.backing_format(), None);
    list.set_backing_format(Some("raw"));
    list.set_backing_format(Some("qcow2"));
    let again = Extensions::parse(&list.to_bytes()).unwrap();
    assert_eq!(again.backing_format().as_deref(), Some("qcow2"));
    list.set_backing_format(None);
    assert_eq!(list, Extensions::for_new_image());
}

#[test]
fn features_have_names() {
    let list = Extensions::for_new_image();
    assert_eq!(list.feature_names(1 << 4), "extended L2 entries");
    let unknown = "Unknown incompatible feature: 8000000000000200";
    assert_eq!(list.feature_names(1 << 9 | 1 << 63), unknown);
    let all = format!("corrupt bit, compression type, {unknown}");
    assert_eq!(list.feature_names(1 << 9 | 1 << 63 | 0b1010), all);
    // The last name of a table may be cut short.
    let mut area = 0x6803_f857_u32.to_be_bytes().to_vec();
    area.extend(8_u32.to_be_bytes());
    area.extend(b"\x00\x3fnovel\0");
    let list = Extensions::parse(&area).unwrap();
    assert_eq!(list.feature_names(1 << 63), "novel");
}

#[test]
fn the_last_of_several_backing_formats_counts() {
    let extension = |name: &[u8; 5]| {
        let mut bytes = 0xe279_2acau32.to_be_bytes().to_vec();
        bytes.extend(5u32.to_be_bytes());
        bytes.extend(name);
        bytes.extend([0; 3]);
        bytes
    };
    let area = [extension(b"qcow2"), extension(b"vmdk4")].concat();
    let mut list = Extensions::parse(&area).unwrap();
    assert_eq!(list.backing_format().as_deref(), Some("vmdk4"));
    list.set_backing_format(None);
    assert_eq!(list, Extensions::default());
}

#[test]
fn an_extension_has_to_fit_and_an_end_mark_may_be_missing() {
    let mut area = vec![0x11, 0, 0, 0, 0, 0, 0, 9];
    area.extend_from_slice(b"12345678");
    assert!(Extensions::parse(&area).is_err());
    area[7] = 8;
    assert!(Extensions::parse(&area).is_ok());
    area[4..8].fill(0xff);
    assert!(Extensions::parse(&area).is_err());
    assert!(Extensions::parse(&[0x11; 7]).is_ok());
}
