//! JSON as QMP speaks it: a stream of values without separators, read in pieces of any size.
//!
//! Beyond RFC 8259, strings may stand in single quotes and may contain `\'`. Errors carry QEMU's
//! texts, and after one the stream is taken up again where QEMU takes it up. Output is ASCII, in
//! QEMU's key order.
//!
//! The parser is not `serde_json`'s. Conversations that were recorded from QEMU say which text each
//! mistake gets, how many errors a broken request gives, and what is accepted. A framer with
//! `serde_json` behind it was built, and took 319 lines where lexer and parser are 517. With
//! `unbounded_depth`, 1,024 levels overflowed the stack of a test's thread: it recurses, and what
//! is here does not. `arbitrary_precision`, which 1e999 and -0 need, is a feature of the whole
//! program, and lets a client write a number as an object with a secret name. Four of 18 recorded
//! mistakes got other answers (`01`, `1.}`, `0e5`, `\u12`); for right ones the framer would need
//! the lexer's numbers. And its errors are distinguished by the wording of their texts alone. What
//! commands make of the values is serde's business (`qmp/arguments`).

mod lexer;
mod parser;
mod printer;

#[cfg(test)]
mod parser_tests;
#[cfg(test)]
mod printer_tests;

pub(super) use parser::{JsonError, Parser};
pub(super) use printer::{in_bucket_order, print};
