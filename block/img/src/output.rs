//! Printing.

use std::io::{self, Write};

use serde::Serialize;

use crate::Failure;

/// Prints `value` as JSON, indented as `qemu-img` does.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    value.serialize(&mut serializer)?;
    writeln!(out)?;
    Ok(())
}

/// Prints text; a reader that has gone away is an error, not a panic.
pub fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}
