//! Numbers that QEMU's schema declares as signed, though a negative one means nothing.

use serde::{Deserialize, Deserializer, de::Error};

/// Bytes of a disk.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let bytes = i64::deserialize(deserializer)?;
    u64::try_from(bytes).map_err(|_| D::Error::custom("expects a >0 size"))
}

/// Bytes a second.
pub fn speed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    not_negative(i64::deserialize(deserializer)?)
}

/// The same where it may be left out.
pub fn speed_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let speed = Option::deserialize(deserializer)?;
    speed.map(not_negative).transpose()
}

/// `Error::custom`'s text goes on where "Parameter 'speed'" ends.
fn not_negative<E: Error>(number: i64) -> Result<u64, E> {
    u64::try_from(number).map_err(|_| E::custom("expects a non-negative value"))
}
