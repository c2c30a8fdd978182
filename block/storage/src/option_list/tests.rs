use super::*;

#[test]
fn single_commas_split_and_doubled_ones_do_not() {
    let cases: [(&[u8], &[&[u8]]); 6] = [
        (b"", &[b""]),
        (b"a=1,b", &[b"a=1", b"b"]),
        (b"a,,b,,,c", &[b"a,b,", b"c"]),
        (b",a,", &[b"", b"a", b""]),
        (b",,,,", &[b",,"]),
        (b"\xff,,=\xfe", &[b"\xff,=\xfe"]),
    ];
    for (list, expected) in cases {
        let options = split_options(OsStr::from_bytes(list));
        let options: Vec<_> = options.iter().map(|option| option.as_bytes()).collect();
        assert_eq!(options, expected, "{list:?}");
    }
}
