//! JSON as QMP speaks it: a stream of values without separators, read in pieces of any size.
//!
//! Beyond RFC 8259, strings may stand in single quotes and may contain `\'`. Errors carry QEMU's
//! texts, and after one the stream is taken up again where QEMU takes it up. Output is ASCII, in
//! QEMU's key order.

mod lexer;
mod parser;
mod printer;

#[cfg(test)]
mod parser_tests;
#[cfg(test)]
mod printer_tests;

pub(super) use parser::{JsonError, Parser};
pub(super) use printer::{in_bucket_order, print};
