use super::{human, parse};

#[test]
fn sizes_are_read() {
    assert_eq!(parse("0"), Ok(0));
    assert_eq!(parse("1000"), Ok(1000));
    assert_eq!(parse("64k"), Ok(65536));
    assert_eq!(parse("1.5G"), Ok(3 << 29));
    assert_eq!(parse("2T"), Ok(2 << 40));
    assert_eq!(parse("12B"), Ok(12));
    for wrong in ["", "k", "1.5", "-1", "1X", "1e3k", "99999E", "0x10", "1 k"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn sizes_are_shown_with_three_digits() {
    let shown = [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (331_776, "324 KiB"),
        (1 << 20, "1 MiB"),
        (3 << 29, "1.5 GiB"),
        (100_352, "98 KiB"),
        (12_345_678, "11.8 MiB"),
        (u64::MAX, "16 EiB"),
    ];
    for (bytes, text) in shown {
        assert_eq!(human(bytes), text, "{bytes}");
    }
}
