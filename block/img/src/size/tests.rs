use super::{human, parse};

#[test]
fn sizes_are_read() {
    assert_eq!(parse("0"), Ok(0));
    assert_eq!(parse("1000"), Ok(1000));
    assert_eq!(parse("64k"), Ok(65536));
    assert_eq!(parse("1.5G"), Ok(3 << 29));
    assert_eq!(parse("2T"), Ok(2 << 40));
    assert_eq!(parse("12B"), Ok(12));
    assert_eq!(parse("1024.0"), Ok(1024));
    assert_eq!(parse("1.k"), Ok(1024));
    assert_eq!(parse("0x10000"), Ok(65536));
    assert_eq!(parse("0X1e"), Ok(30));
    assert_eq!(parse("0x10k"), Ok(16384));
    assert_eq!(parse("9223372036854775807"), Ok(i64::MAX as u64));
    assert_eq!(parse("0x7fffffffffffffff"), Ok(i64::MAX as u64));
    assert_eq!(parse("7.5E"), Ok(15 << 59));
    for wrong in [
        "", "k", "1.5", "1.5B", "-1", "+1", "1X", "1e3k", "1 k", "0x", "0xk", "0x1.8k", "0xg",
        "1.5.2k", ".5k", "1_0", "inf", "nan", "١",
    ] {
        let why = parse(wrong).unwrap_err();
        assert!(
            why.contains("a number with an optional unit"),
            "{wrong}: {why}"
        );
    }
    for large in [
        "8E",
        "99999E",
        "9223372036854775808",
        "18446744073709551616",
        "0x8000000000000000",
        "0x10000000000000000",
        "7.9999999999999999999E",
    ] {
        let why = parse(large).unwrap_err();
        assert!(
            why.contains("must be between 0 and 9223372036854775807"),
            "{large}: {why}"
        );
    }
}

#[test]
fn sizes_are_shown_with_three_digits() {
    let shown = [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
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
