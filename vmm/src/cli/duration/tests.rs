use super::*;

#[test]
fn numbers_with_and_without_a_unit() {
    for (text, millis) in [
        ("60", 60_000),
        ("60s", 60_000),
        ("1.5s", 1_500),
        ("250ms", 250),
        ("2m", 120_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn what_is_no_length_of_time() {
    for text in [
        "", "s", "x", "-1", "1d", "1 s", "0", "0ms", "nan", "inf", "+1", "1e30h", "1s1",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}
