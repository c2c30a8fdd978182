//! Arguments of a QMP request: from JSON to a command's value, and QEMU's words for what does not
//! fit.
//!
//! As QEMU's input visitor does it, members are looked at in the order in which the command's type
//! declares them, and those that the type does not know come last. Types are taken literally: no
//! number is a string, and `null` is nothing that was left out.

use std::{fmt, iter, vec};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};
use strata_block::api::CmdError;

/// The arguments of one request.
#[derive(Debug)]
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    pub(super) fn new(members: Map<String, Value>) -> Arguments {
        Arguments(members)
    }

    /// Hands them to `read`, such as a type's `deserialize`.
    pub(super) fn argument(self) -> Argument {
        Argument(Some(Value::Object(self.0)))
    }

    /// Makes a command's arguments of them.
    pub(super) fn read<'de, T: Deserialize<'de>>(self) -> Result<T, CmdError> {
        Ok(T::deserialize(self.argument())?)
    }
}

/// The arguments of a command that has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoArguments {}

/// A value to be read; `None` if it was not given.
#[derive(Debug)]
pub(super) struct Argument(Option<Value>);

/// Why a value does not fit, and where it stands among the arguments (`bitmaps[0].name`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArgumentError {
    path: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    Missing,
    Unexpected,
    /// It is no value of this type.
    Type(String),
    /// It is none of the words that there are.
    Word(String),
    /// What a type says of a value that it refuses; the sentence begins with the argument.
    Refused(String),
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.reason {
            Reason::Missing => write!(f, "Parameter '{path}' is missing"),
            Reason::Unexpected => write!(f, "Parameter '{path}' is unexpected"),
            Reason::Type(expected) => {
                write!(
                    f,
                    "Invalid parameter type for '{path}', expected: {expected}"
                )
            }
            Reason::Word(word) => write!(f, "Parameter '{path}' does not accept value '{word}'"),
            Reason::Refused(why) => write!(f, "Parameter '{path}' {why}"),
        }
    }
}

impl std::error::Error for ArgumentError {}

impl From<ArgumentError> for CmdError {
    fn from(error: ArgumentError) -> Self {
        CmdError::generic(error.to_string())
    }
}

impl From<Reason> for ArgumentError {
    fn from(reason: Reason) -> Self {
        let path = String::new();
        ArgumentError { path, reason }
    }
}

impl ArgumentError {
    fn of(name: &str, reason: Reason) -> ArgumentError {
        ArgumentError::from(reason).inside(name)
    }

    /// The same of something that stands within the member or element `outer`.
    fn inside(mut self, outer: &str) -> ArgumentError {
        let joint = match self.path.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.path = format!("{outer}{joint}{}", self.path);
        self
    }
}

impl serde::de::Error for ArgumentError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Reason::Refused(why.to_string()).into()
    }

    /// Only a type that has several forms gets a value that it does not expect.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Reason::Type(expected.to_string()).into()
    }

    /// Only an enumeration with a tag says so, of a member beside its tag and its content.
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match found {
            Unexpected::Str(name) => ArgumentError::of(name, Reason::Unexpected),
            _ => Self::custom(format_args!("expects {expected}")),
        }
    }

    fn missing_field(name: &'static str) -> Self {
        ArgumentError::of(name, Reason::Missing)
    }

    fn unknown_field(name: &str, _: &'static [&'static str]) -> Self {
        ArgumentError::of(name, Reason::Unexpected)
    }

    fn unknown_variant(word: &str, _: &'static [&'static str]) -> Self {
        Reason::Word(word.to_owned()).into()
    }
}

impl Argument {
    /// What was given, which `pick` makes something of if it is of type `expected`.
    fn given<T>(
        self,
        expected: &str,
        pick: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, ArgumentError> {
        let value = self.0.ok_or(Reason::Missing)?;
        let mismatch = || Reason::Type(expected.to_owned()).into();
        pick(value).ok_or_else(mismatch)
    }

    fn text(self) -> Result<String, ArgumentError> {
        self.given("string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    /// An integer that the type called `name` in QEMU's schema can hold.
    fn integer<T: TryFrom<i64>>(self, name: &str) -> Result<T, ArgumentError> {
        let number = self.given("integer", |value| value.as_i64())?;
        let refused = |_| Reason::Refused(format!("expects {name}")).into();
        T::try_from(number).map_err(refused)
    }

    fn object(self) -> Result<Map<String, Value>, ArgumentError> {
        self.given("object", |value| match value {
            Value::Object(members) => Some(members),
            _ => None,
        })
    }
}

impl<'de> Deserializer<'de> for Argument {
    type Error = ArgumentError;

    /// For a type that has several forms.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        match self.0.ok_or(Reason::Missing)? {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::Number(number) => match number.as_i64() {
                Some(number) => visitor.visit_i64(number),
                None => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(elements) => visitor.visit_seq(Elements::new(elements)),
            Value::Object(members) => visitor.visit_map(Members::new(members, &[])),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_bool(self.given("boolean", |value| value.as_bool())?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_i64(self.integer("int64_t")?)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_u16(self.integer("uint16_t")?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_u32(self.integer("uint32_t")?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_identifier<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        match self.0 {
            None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        let elements = self.given("array", |value| match value {
            Value::Array(elements) => Some(elements),
            _ => None,
        })?;
        visitor.visit_seq(Elements::new(elements))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        visitor.visit_map(Members::new(self.object()?, fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        visitor.visit_enum(self.text()?.into_deserializer())
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct map ignored_any
    }
}

/// The elements of an array, each of which knows its number.
struct Elements(iter::Enumerate<vec::IntoIter<Value>>);

impl Elements {
    fn new(elements: Vec<Value>) -> Elements {
        Elements(elements.into_iter().enumerate())
    }
}

impl<'de> SeqAccess<'de> for Elements {
    type Error = ArgumentError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ArgumentError> {
        let Some((index, element)) = self.0.next() else {
            return Ok(None);
        };
        let read = seed.deserialize(Argument(Some(element)));
        read.map(Some)
            .map_err(|error| error.inside(&format!("[{index}]")))
    }
}

/// The members of an object.
struct Members {
    rest: vec::IntoIter<(String, Option<Value>)>,
    /// The one whose name has been looked at.
    current: (String, Option<Value>),
}

impl Members {
    /// First those called `known`, given or not, then the others.
    fn new(mut members: Map<String, Value>, known: &[&str]) -> Members {
        let known = known
            .iter()
            .map(|name| ((*name).to_owned(), members.shift_remove(*name)));
        let mut all: Vec<_> = known.collect();
        all.extend(members.into_iter().map(|(name, value)| (name, Some(value))));
        Members {
            rest: all.into_iter(),
            current: (String::new(), None),
        }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = ArgumentError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ArgumentError> {
        let Some(member) = self.rest.next() else {
            return Ok(None);
        };
        self.current = member;
        let name: StrDeserializer<'_, ArgumentError> = self.current.0.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ArgumentError> {
        let (name, value) = std::mem::take(&mut self.current);
        let read = seed.deserialize(Argument(value));
        read.map_err(|error| error.inside(&name))
    }
}

#[cfg(test)]
mod tests;
