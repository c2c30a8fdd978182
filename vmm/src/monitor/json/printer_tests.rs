//! The key orders that QEMU was seen to use.

use serde_json::{Map, Value, json};

use super::print;

fn printed(value: &Value) -> String {
    let mut text = String::new();
    print(value, &mut text);
    text
}

/// Prints an object of these keys, given in the opposite order, and checks that they come in
/// theirs.
fn comes_in_order(keys: &[&str]) {
    let members: Map<String, Value> = keys
        .iter()
        .rev()
        .map(|key| ((*key).to_owned(), json!(0)))
        .collect();
    let expected: Vec<String> = keys.iter().map(|key| format!("\"{key}\": 0")).collect();
    assert_eq!(
        printed(&Value::Object(members)),
        format!("{{{}}}", expected.join(", "))
    );
}

#[test]
fn keys_come_in_the_order_of_qemu() {
    comes_in_order(&["timestamp", "event", "data"]);
    comes_in_order(&["status", "id"]);
    comes_in_order(&["return", "id"]);
    comes_in_order(&["id", "error"]);
    comes_in_order(&["class", "desc"]);
    comes_in_order(&["micro", "minor", "major"]);
    comes_in_order(&["version", "capabilities"]);
    comes_in_order(&["device", "len", "offset", "speed", "type"]);
    comes_in_order(&["current-progress", "status", "total-progress", "type", "id"]);
    comes_in_order(&[
        "auto-finalize",
        "io-status",
        "device",
        "auto-dismiss",
        "busy",
        "len",
        "offset",
        "status",
        "paused",
        "speed",
        "ready",
        "type",
    ]);
    comes_in_order(&[
        "iops_rd",
        "detect_zeroes",
        "image",
        "iops_wr",
        "ro",
        "node-name",
        "backing_file_depth",
        "drv",
        "iops",
        "bps_wr",
        "write_threshold",
        "backing_file",
        "encrypted",
        "bps",
        "bps_rd",
        "cache",
        "file",
    ]);
}

#[test]
fn keys_of_one_bucket_come_newest_first() {
    // Found by search: both hash to the same of the 512 buckets.
    let (first, second) = same_bucket();
    let members = json!({first.as_str(): 1, second.as_str(): 2});
    assert_eq!(
        printed(&members),
        format!("{{\"{second}\": 2, \"{first}\": 1}}")
    );
}

/// Two keys whose order depends on which was inserted first.
fn same_bucket() -> (String, String) {
    for number in 0.. {
        let (first, second) = ("k0".to_owned(), format!("k{number}x"));
        let one = printed(&json!({first.as_str(): 0, second.as_str(): 0}));
        let other = printed(&json!({second.as_str(): 0, first.as_str(): 0}));
        if one != other {
            return (first, second);
        }
    }
    unreachable!("512 buckets, endless keys")
}

#[test]
fn text_is_ascii() {
    assert_eq!(
        printed(&json!("\"\\/\u{8}\u{c}\n\r\t\u{0}\u{7f}é😀~ ")),
        r#""\"\\/\b\f\n\r\t\u0000\u007F\u00E9\uD83D\uDE00~ ""#
    );
}

#[test]
fn values_have_spaces_between_them() {
    assert_eq!(
        printed(&json!([null, true, false, -1, 1.5, [], {}, {"a": [1, 2]}])),
        r#"[null, true, false, -1, 1.5, [], {}, {"a": [1, 2]}]"#
    );
}
