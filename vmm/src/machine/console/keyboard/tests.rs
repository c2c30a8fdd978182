use super::*;

/// What the guest gets of `typed`, chunk by chunk, and whether the person left.
fn typed(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut filter = Keys::default();
    let mut guest = Vec::new();
    for chunk in chunks {
        let mut bytes = chunk.to_vec();
        let kept = filter.apply(&mut bytes);
        guest.extend_from_slice(&bytes[..kept]);
    }
    (guest, filter.leave)
}

#[test]
fn ordinary_keys_reach_the_guest() {
    assert_eq!(typed(&[b"ls\r\x03"]), (b"ls\r\x03".to_vec(), false));
}

#[test]
fn control_a_x_leaves() {
    assert_eq!(typed(&[b"a\x01xb"]), (b"ab".to_vec(), true));
    assert_eq!(typed(&[b"\x01", b"X"]), (vec![], true));
}

#[test]
fn control_a_twice_is_control_a() {
    assert_eq!(typed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
}

#[test]
fn an_unknown_command_is_an_ordinary_key() {
    assert_eq!(typed(&[b"\x01c"]), (b"c".to_vec(), false));
}

#[test]
fn control_a_h_asks_for_help() {
    let mut filter = Keys::default();
    let mut bytes = *b"a\x01hb\x01H";
    assert_eq!(filter.apply(&mut bytes), 2);
    assert_eq!(
        (&bytes[..2], filter.help, filter.leave()),
        (&b"ab"[..], true, false)
    );
}
