//! HMP: one client's conversation in lines of text.
//!
//! Plain lines, with a prompt after each result: no echo and no editing, which terminals and the
//! scripts that pipe lines through `socat` do not need. Output lines end in CR LF, as in QEMU.

mod args;
mod exports;
mod inflight;
mod info;
mod run;
mod size;
mod table;
mod words;

#[cfg(test)]
mod inflight_tests;
#[cfg(test)]
mod line_tests;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod words_tests;

use super::machine::Machine;
use super::step::Step;
use super::{MAX_LINE, PACKAGE};
use args::Failure;
pub(crate) use size::{human_size, parse_size};
use table::{COMMANDS, Command};
use words::Words;

const PROMPT: &str = "(strata) ";

/// One client.
#[derive(Debug, Default)]
pub(super) struct Session {
    line: Vec<u8>,
    /// The line has outgrown the limit; the rest of it is skipped.
    too_long: bool,
    /// The last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
}

impl Session {
    pub(super) fn new() -> Session {
        Session::default()
    }

    /// What the client is sent first.
    pub(super) fn greeting(&self) -> Vec<u8> {
        format!("{PACKAGE} monitor - type 'help' for more information\r\n{PROMPT}").into_bytes()
    }

    /// Takes bytes up to the end of one line, and starts that. Says how many bytes it took;
    /// without a line that is all of them.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        machine: &dyn Machine,
    ) -> (usize, Option<Step<Vec<u8>>>) {
        for (index, &byte) in input.iter().enumerate() {
            let ends_line = byte == b'\r' || byte == b'\n' && !self.after_cr;
            if ends_line {
                self.after_cr = byte == b'\r';
                return (index + 1, Some(self.finish_line(machine)));
            }
            if byte == b'\n' {
                // The second half of a CR LF.
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            } else {
                self.too_long = true;
            }
            self.after_cr = false;
        }
        (input.len(), None)
    }

    fn finish_line(&mut self, machine: &dyn Machine) -> Step<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        let step = match String::from_utf8(line) {
            _ if std::mem::take(&mut self.too_long) => {
                Step::Done(format!("The line is longer than {MAX_LINE} bytes\r\n"))
            }
            Ok(line) => execute(&line, machine),
            Err(_) => Step::Done("The line is not valid UTF-8\r\n".to_owned()),
        };
        step.map(|text| (text + PROMPT).into_bytes())
    }
}

/// Executes one line; the output's lines end in CR LF.
pub(super) fn execute(line: &str, machine: &dyn Machine) -> Step<String> {
    interpret(line, machine).map(|text| text.replace('\n', "\r\n"))
}

fn interpret(line: &str, machine: &dyn Machine) -> Step<String> {
    let (typed, command, rest) = match find(line) {
        Ok(Some(found)) => found,
        Ok(None) => return Step::Done(String::new()),
        Err(unknown) => return Step::Done(format!("unknown command: '{unknown}'\n")),
    };
    match args::parse(command.params, rest) {
        Ok(args) => (command.run)(&args, machine),
        Err(failure) => Step::Done(format!(
            "{}Try \"help {typed}\" for more information\n",
            describe(command, failure)
        )),
    }
}

/// What [`find`] finds: the words that were typed, the command, and what follows them.
type Found<'a> = (&'a str, &'static Command, &'a str);

/// The command that `line` begins with: `None` if it is blank, an error with the words that name
/// no command.
fn find(line: &str) -> Result<Option<Found<'_>>, &str> {
    let line = line.trim_start();
    let mut table = COMMANDS;
    let mut found = None;
    let mut words = Words::new(line);
    while let Some(word) = words.bare() {
        let typed = line[..words.position()].trim_end();
        let command = table.iter().find(|command| command.is(word)).ok_or(typed)?;
        found = Some((typed, command, words.rest()));
        if command.subcommands.is_empty() {
            break;
        }
        table = command.subcommands;
    }
    Ok(found)
}

fn describe(command: &Command, failure: Failure) -> String {
    let name = command.title();
    match failure {
        Failure::InvalidSize => "invalid size\n".to_owned(),
        Failure::InvalidNumber => "invalid number\n".to_owned(),
        Failure::Option(option) => format!("{name}: unsupported option {option}\n"),
        Failure::Expected(what) => format!("{name}: {what} expected\n"),
        Failure::Extraneous => format!("{name}: extraneous characters at the end of line\n"),
        Failure::Word(reason, what) => format!("{reason}\n{name}: {what} expected\n"),
    }
}
