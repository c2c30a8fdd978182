use super::*;

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let all = [
        encode(OUTPUT, b"some output"),
        encode(READY, b""),
        encode(FILE_DATA, &[7; MAX]),
        encode(EXIT, &[42]),
    ]
    .concat();
    for piece in [1, 2, 3, 5, 4096, all.len()] {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for bytes in all.chunks(piece) {
            decoder.push(bytes);
            while let Some(frame) = decoder.next().unwrap() {
                found.push(frame);
            }
        }
        let kinds: Vec<_> = found
            .iter()
            .map(|(kind, content)| (*kind, content.len()))
            .collect();
        let expected = [(OUTPUT, 11), (READY, 0), (FILE_DATA, MAX), (EXIT, 1)];
        assert_eq!(kinds, expected, "in pieces of {piece}");
        assert_eq!(found[0].1, b"some output");
    }
}

#[test]
fn what_is_no_frame_is_not_waited_for() {
    let mut decoder = Decoder::default();
    decoder.push(b"Linux version 6.1");
    assert_eq!(decoder.next(), Err(TooLong));
}
