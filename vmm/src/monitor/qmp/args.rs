//! Arguments of QMP commands: declared once, checked before anything is done.

use serde_json::{Map, Value};
use strata_block::api::CmdError;

use super::generic;

/// Type of an argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A signed 64-bit integer.
    Integer,
    /// A boolean.
    Flag,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An object, whose members the command looks at.
    Object,
    /// An array of strings out of these.
    ListOf(&'static [&'static str]),
    /// An array of strings or objects, which the command looks at.
    List,
}

/// One argument.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

/// An argument that must be given.
pub(super) const fn required(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: true,
    }
}

/// An argument that may be given.
pub(super) const fn optional(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: false,
    }
}

/// Arguments that have passed [`check`].
#[derive(Debug)]
pub(super) struct Args(Map<String, Value>);

/// Compares what was given with what is declared, in the order of the declaration, as QEMU does.
pub(super) fn check(params: &[Param], given: Map<String, Value>) -> Result<Args, CmdError> {
    for param in params {
        match given.get(param.name) {
            Some(value) => check_type(param.name, param.kind, value)?,
            None if param.required => {
                return Err(generic(format!("Parameter '{}' is missing", param.name)));
            }
            None => {}
        }
    }
    let known = |name: &String| params.iter().any(|param| param.name == name);
    match given.keys().find(|name| !known(name)) {
        Some(name) => Err(generic(format!("Parameter '{name}' is unexpected"))),
        None => Ok(Args(given)),
    }
}

fn check_type(name: &str, kind: Kind, value: &Value) -> Result<(), CmdError> {
    let expected = match kind {
        Kind::Text if value.is_string() => return Ok(()),
        Kind::Integer if value.is_i64() => return Ok(()),
        Kind::Flag if value.is_boolean() => return Ok(()),
        Kind::Object if value.is_object() => return Ok(()),
        Kind::OneOf(names) => match value {
            Value::String(text) if names.contains(&text.as_str()) => return Ok(()),
            Value::String(text) => {
                let desc = format!("Parameter '{name}' does not accept value '{text}'");
                return Err(generic(desc));
            }
            _ => "string",
        },
        Kind::ListOf(names) => match value {
            Value::Array(elements) => {
                return elements
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, element)| {
                        check_type(&format!("{name}[{index}]"), Kind::OneOf(names), element)
                    });
            }
            _ => "array",
        },
        Kind::List if value.is_array() => {
            let elements = value.as_array().into_iter().flatten().enumerate();
            for (index, element) in elements {
                if !element.is_string() {
                    check_type(&format!("{name}[{index}]"), Kind::Object, element)?;
                }
            }
            return Ok(());
        }
        Kind::List => "array",
        Kind::Text => "string",
        Kind::Integer => "integer",
        Kind::Flag => "boolean",
        Kind::Object => "object",
    };
    Err(generic(format!(
        "Invalid parameter type for '{name}', expected: {expected}"
    )))
}

impl Args {
    /// A string, if given.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// A string that the declaration requires.
    pub(super) fn required_text(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    /// An integer, if given.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// The elements of an array; none if it was not given.
    pub(super) fn list(&self, name: &str) -> &[Value] {
        let list = self.0.get(name).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// A member of an object that the declaration requires.
    pub(super) fn member(&self, name: &str, member: &str) -> Option<&Value> {
        self.0.get(name).and_then(|object| object.get(member))
    }

    /// A boolean, `default` if not given.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(default)
    }
}
