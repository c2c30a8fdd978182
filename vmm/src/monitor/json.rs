//! JSON as QMP speaks it: a stream of values without separators, read in pieces of any size.
//!
//! Beyond RFC 8259, strings may stand in single quotes and may contain `\'`. Errors carry QEMU's
//! texts, and after one the stream is taken up again where QEMU takes it up. Output is ASCII, in
//! QEMU's key order.
//!
//! The parser is not `serde_json`'s. Conversations that were recorded from QEMU say which text each
//! mistake gets, how many errors a broken request gives, and what is accepted. `serde_json` keeps
//! the last of several members with one name, refuses what is nested deeper than 128 levels and
//! numbers beyond a float's range, reads `-0` as a float, and tells its errors apart by their text
//! alone: to translate that back would be as long as this, and depend on its wording. What commands
//! make of the values is serde's business (`qmp/arguments`).

mod lexer;
mod parser;
mod printer;

#[cfg(test)]
mod parser_tests;
#[cfg(test)]
mod printer_tests;

pub(super) use parser::{JsonError, Parser};
pub(super) use printer::{in_bucket_order, print};
