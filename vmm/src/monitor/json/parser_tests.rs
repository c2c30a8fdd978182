//! Any cutting of the stream gives the same values, and no bytes do any harm.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{JsonError, Parser, print};
use crate::monitor::{MAX_NESTING, MAX_REQUEST};

type Items = Vec<Result<Value, JsonError>>;

/// Feeds the pieces one after another.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Items {
    let mut parser = Parser::new();
    let mut items = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        loop {
            let (used, item) = parser.next(rest);
            rest = &rest[used..];
            match item {
                Some(item) => items.push(item),
                None => break,
            }
        }
        assert!(rest.is_empty(), "without an item all bytes are used");
    }
    items
}

fn whole(text: &[u8]) -> Items {
    parse([text])
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6)
                .prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    })
}

/// Bytes that are likely to come close to JSON.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let structure =
        proptest::sample::select(&b"{}[]:,\"'\\ \n\r\t0123456789.eE+-truefalsnu\xff\0"[..]);
    vec(prop_oneof![9 => structure, 1 => any::<u8>()], 0..200)
}

proptest! {
    #[test]
    fn values_survive(values in vec(any_value(), 0..4), separator in "[ \r\n\t]{1,3}") {
        let mut text = String::new();
        for value in &values {
            print(value, &mut text);
            // Two numbers need something between them, and one more byte shows where the last ends.
            text.push_str(&separator);
        }
        let parsed: Result<Vec<Value>, JsonError> = whole(text.as_bytes()).into_iter().collect();
        prop_assert_eq!(parsed.unwrap(), values);
    }

    #[test]
    fn pieces_do_not_matter(text in nearly_json(), cuts in vec(0..200usize, 0..20)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(parse(pieces), whole(&text));
        prop_assert_eq!(parse(text.chunks(1)), whole(&text));
    }

    #[test]
    fn garbage_is_left_again(text in nearly_json()) {
        // A control character ends a string and all that is open, and an error is left behind at
        // a brace: the request after it arrives whatever came before.
        let mut text = text;
        text.extend_from_slice(b"\xff\n{\"execute\": \"quit\"}");
        prop_assert_eq!(whole(&text).pop(), Some(Ok(json!({"execute": "quit"}))));
    }

    #[test]
    fn whatever_serde_json_accepts_is_accepted_alike(text in nearly_json()) {
        if let Ok(value) = serde_json::from_slice::<Value>(&text)
            && value.is_object()
        {
            // Duplicate keys are an error here, and the last one wins there.
            let ours = whole(&text);
            let duplicate = Err(JsonError::Syntax("duplicate key".to_owned()));
            prop_assert!(ours == [Ok(value)] || ours == [duplicate]);
        }
    }
}

#[test]
fn one_broken_request_is_one_error() {
    let items = whole(br#"{"a": [1,, {"b": }], "c" "d"} {"execute": "stop"}"#);
    assert_eq!(items.len(), 2);
    assert_eq!(
        items[0],
        Err(JsonError::Syntax("expecting value".to_owned()))
    );
    assert_eq!(items[1], Ok(json!({"execute": "stop"})));
}

#[test]
fn strings_in_single_quotes() {
    let items = whole(br#"{'a"\'': '\u0041"'}"#);
    assert_eq!(items, [Ok(json!({"a\"'": "A\""}))]);
}

#[test]
fn invalid_utf8_is_an_error() {
    for text in [&b"\"\xc3\""[..], b"\"\xed\xa0\x80\"", b"\"\xc0\x80\""] {
        let error = JsonError::Syntax("invalid UTF-8 sequence in string".to_owned());
        assert_eq!(whole(text), [Err(error)]);
    }
    let stray = JsonError::Syntax("stray '\u{fffd}'".to_owned());
    assert_eq!(whole(b"\xff"), [Err(stray)]);
}

#[test]
fn numbers_keep_what_64_bits_hold() {
    let items =
        whole(b"[-9223372036854775808, 18446744073709551615, 18446744073709551616, 1e5, 1e999]");
    let expected = json!([
        i64::MIN,
        u64::MAX,
        18446744073709551616.0,
        100000.0,
        f64::MAX
    ]);
    assert_eq!(items, [Ok(expected)]);
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert!(matches!(
        whole(&nested(MAX_NESTING))[..],
        [Ok(Value::Array(_))]
    ));
    assert_eq!(whole(&nested(MAX_NESTING + 1))[0], Err(JsonError::Nesting));
}

#[test]
fn length_is_limited() {
    let text = |length: usize| [b"\"", &b"x".repeat(length - 2)[..], b"\""].concat();
    assert!(matches!(
        whole(&text(MAX_REQUEST))[..],
        [Ok(Value::String(_))]
    ));
    assert!(whole(&text(MAX_REQUEST + 1))[0] == Err(JsonError::Length));
    // Space between requests is not part of any.
    let apart = [&b" ".repeat(2 * MAX_REQUEST)[..], b"{}"].concat();
    assert_eq!(whole(&apart), [Ok(json!({}))]);
    // Neither is what has been given up.
    let given_up = [&b"$"[..], &b"x".repeat(2 * MAX_REQUEST)[..], b"{}"].concat();
    assert_eq!(whole(&given_up).pop(), Some(Ok(json!({}))));
}
