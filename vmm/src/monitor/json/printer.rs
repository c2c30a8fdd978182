//! Values to text, byte for byte as QEMU writes them.
//!
//! QEMU keeps an object's members in 512 hash buckets and writes them in bucket order, the newest
//! first within one. Clients must not rely on it, but transcripts that people compare do.

use serde_json::{Map, Value};

/// Appends `value` to `out`: ASCII, one line, a space after every colon and comma.
pub(in crate::monitor) fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => print_text(text, out),
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                print(element, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, value)) in in_bucket_order(members).into_iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                print_text(key, out);
                out.push_str(": ");
                print(value, out);
            }
            out.push('}');
        }
    }
}

/// The members of an object in the order in which QEMU goes through them.
pub(in crate::monitor) fn in_bucket_order(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut ordered: Vec<_> = members.iter().rev().collect();
    ordered.sort_by_key(|(key, _)| bucket(key));
    ordered
}

/// The bucket of a key: the hash of TDB (the Trivial Database) over its bytes, modulo 512.
fn bucket(key: &str) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the hash is one modulo 2^32"
    )]
    let length = key.len() as u32;
    let hash = key.bytes().zip(0u32..).fold(
        0x238f_13afu32.wrapping_mul(length),
        |hash, (byte, index)| hash.wrapping_add(u32::from(byte) << (index.wrapping_mul(5) % 24)),
    );
    hash.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

fn print_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out.push('"');
}
