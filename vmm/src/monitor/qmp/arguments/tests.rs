//! What fits, and the words for what does not.

use proptest::{collection::vec, prelude::*};
use serde_json::json;
use strata_block::api::{BlockStream, Cmd};

use super::*;

fn parse(name: &str, arguments: Value) -> Result<Cmd, String> {
    let Value::Object(members) = arguments else {
        panic!("arguments are an object")
    };
    let read = Cmd::parse(name, Arguments::new(members).argument());
    let read = read.unwrap_or_else(|| panic!("there is {name}"));
    read.map_err(|error| error.to_string())
}

fn refused(name: &str, arguments: Value) -> String {
    parse(name, arguments).expect_err("it does not fit")
}

#[test]
fn what_was_not_given_is_none() {
    let expected = BlockStream {
        device: "d".to_owned(),
        speed: Some(5),
        ..BlockStream::default()
    };
    let read = parse("block-stream", json!({"speed": 5, "device": "d"}));
    assert_eq!(read, Ok(Cmd::BlockStream(expected)));
}

#[test]
fn members_are_looked_at_in_the_order_of_the_schema() {
    // `job-id` stands before `device`, `speed` behind it, and what is unknown comes last.
    for (arguments, expected) in [
        (
            json!({"foo": 1, "job-id": 1}),
            "Invalid parameter type for 'job-id', expected: string",
        ),
        (
            json!({"foo": 1, "speed": "x"}),
            "Parameter 'device' is missing",
        ),
        (
            json!({"foo": 1, "speed": "x", "device": "d"}),
            "Invalid parameter type for 'speed', expected: integer",
        ),
        (
            json!({"foo": 1, "bar": 1, "device": "d"}),
            "Parameter 'foo' is unexpected",
        ),
    ] {
        assert_eq!(refused("block-stream", arguments), expected);
    }
}

#[test]
fn null_is_a_value_of_a_wrong_type() {
    let error = refused("block-stream", json!({"device": "d", "base": null}));
    assert_eq!(error, "Invalid parameter type for 'base', expected: string");
}

#[test]
fn places_within_arguments_are_named() {
    let start = |addr: Value| refused("nbd-server-start", json!({"addr": addr}));
    assert_eq!(
        start(json!({"data": 1})),
        "Parameter 'addr.type' is missing"
    );
    assert_eq!(
        start(json!({"type": "unix"})),
        "Parameter 'addr.data' is missing"
    );
    assert_eq!(
        start(json!({"type": "unix", "data": {"path": 1}})),
        "Invalid parameter type for 'addr.data.path', expected: string"
    );
    assert_eq!(
        start(json!({"type": "unix", "data": {"path": "/s", "x": 1}})),
        "Parameter 'addr.data.x' is unexpected"
    );
    assert_eq!(
        start(json!({"type": "unix", "data": {"path": "/s"}, "x": 1})),
        "Parameter 'addr.x' is unexpected"
    );
    let merge = |bitmaps: Value| {
        let arguments = json!({"node": "n", "target": "t", "bitmaps": bitmaps});
        refused("block-dirty-bitmap-merge", arguments)
    };
    assert_eq!(
        merge(json!(["a", {"node": 1, "name": "b"}])),
        "Invalid parameter type for 'bitmaps[1].node', expected: string"
    );
    assert_eq!(
        merge(json!([{"name": "b"}])),
        "Parameter 'bitmaps[0].node' is missing"
    );
    assert_eq!(
        merge(json!([["a"]])),
        "Invalid parameter type for 'bitmaps[0]', expected: object"
    );
}

#[test]
fn integers_have_the_range_of_their_type() {
    let add = |granularity: Value| {
        let arguments = json!({"node": "n", "name": "b", "granularity": granularity});
        parse("block-dirty-bitmap-add", arguments)
    };
    assert!(add(json!(u32::MAX)).is_ok());
    let range = "Parameter 'granularity' expects uint32_t".to_owned();
    assert_eq!(add(json!(u64::from(u32::MAX) + 1)), Err(range.clone()));
    assert_eq!(add(json!(-1)), Err(range));
    let kind = "Invalid parameter type for 'granularity', expected: integer".to_owned();
    for value in [json!(1.0), json!(u64::MAX), json!("1"), json!(true)] {
        assert_eq!(add(value), Err(kind.clone()));
    }
}

fn any_argument() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(vec!["unix", "inet", "nbd", "hard", "x"]).prop_map(Value::from),
    ];
    let names = proptest::sample::select(vec!["type", "data", "path", "node", "name", "x"]);
    leaf.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((names.clone(), inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Names of members that many commands know.
const NAMES: &[&str] = &[
    "device",
    "id",
    "node",
    "name",
    "node-name",
    "type",
    "addr",
    "bitmaps",
    "speed",
    "size",
    "mode",
    "num-queues",
    "x",
];

proptest! {
    /// Whatever is given, the command is read as it would be read again, or refused in one line.
    #[test]
    fn any_arguments_are_read_or_refused(
        command in proptest::sample::select(Cmd::NAMES),
        members in vec((proptest::sample::select(NAMES), any_argument()), 0..6),
    ) {
        let arguments: Value = members.into_iter().collect();
        match parse(command, arguments) {
            Ok(cmd) => {
                let again = serde_json::to_value(&cmd).unwrap();
                prop_assert_eq!(serde_json::from_value::<Cmd>(again).unwrap(), cmd);
            }
            Err(error) => {
                prop_assert!(error.contains("arameter"), "{error}");
                prop_assert!(!error.contains("''"), "{error}");
            }
        }
    }
}
