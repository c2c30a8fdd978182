//! QMP: one client's conversation in JSON.
//!
//! Requests are executed in band only. `oob` is not advertised: QEMU allows it for migration and
//! yank commands alone, none of which exist here, and clients ask for it only where it is offered.

mod arguments;
mod event;
mod run;
mod table;

use serde_json::{Map, Value, json};
use strata_block::api::{CmdError, ErrorClass};

use arguments::Arguments;
pub(super) use event::event;

use super::json::{JsonError, Parser, print};
use super::machine::Machine;
use super::step::Step;
use super::{COMPATIBLE_VERSION, PACKAGE};

/// What a command gives: the value of `return`, or the error.
type Outcome = Result<Returned, CmdError>;

/// The value of `return`.
#[derive(Debug)]
enum Returned {
    Value(Value),
    /// As text already: it would take many times the room as a value.
    Text(String),
}

impl From<Value> for Returned {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    parser: Parser,
    negotiated: bool,
    /// Events of jobs' progress are wanted.
    progress: bool,
    over: bool,
}

impl Session {
    pub(super) fn new() -> Session {
        Session {
            parser: Parser::new(),
            negotiated: false,
            progress: false,
            over: false,
        }
    }

    /// What the client is sent first.
    pub(super) fn greeting(&self) -> Vec<u8> {
        line(&json!({"QMP": {"version": version(), "capabilities": []}}))
    }

    /// Capabilities have been negotiated: events are wanted.
    pub(super) fn wants_events(&self) -> bool {
        self.negotiated
    }

    /// Events of jobs' progress are wanted.
    pub(super) fn wants_progress(&self) -> bool {
        self.progress
    }

    /// The client has broken a limit and is to be cut off once that has been reported to it.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes bytes up to the end of one request, and starts that. Says how many bytes it took;
    /// without a request that is all of them.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        machine: &dyn Machine,
    ) -> (usize, Option<Step<Vec<u8>>>) {
        let (used, message) = self.parser.next(input);
        let step = message.map(|message| match message {
            Ok(request) => self.execute(request, machine),
            Err(error) => {
                self.over = error == JsonError::Length;
                Step::Done(response(Err(CmdError::generic(error.to_string())), None))
            }
        });
        (used, step)
    }

    fn execute(&mut self, request: Value, machine: &dyn Machine) -> Step<Vec<u8>> {
        let Value::Object(mut members) = request else {
            let error = CmdError::generic("QMP input must be a JSON object");
            return Step::Done(response(Err(error), None));
        };
        let id = members.shift_remove("id");
        match self.dispatch(members, machine) {
            Ok(step) => step.map(|outcome| response(outcome, id)),
            Err(error) => Step::Done(response(Err(error), id)),
        }
    }

    fn dispatch(
        &mut self,
        members: Map<String, Value>,
        machine: &dyn Machine,
    ) -> Result<Step<Outcome>, CmdError> {
        let (name, arguments) = split(members)?;
        if !self.negotiated && name != "qmp_capabilities" {
            return Err(CmdError {
                class: ErrorClass::CommandNotFound,
                desc: "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
            });
        }
        let mut context = Context {
            machine,
            negotiated: &mut self.negotiated,
            progress: &mut self.progress,
        };
        let started = table::start(&name, Arguments::new(arguments), &mut context);
        started.unwrap_or_else(|| {
            Err(CmdError {
                class: ErrorClass::CommandNotFound,
                desc: format!("The command {name} has not been found"),
            })
        })
    }
}

/// What commands that need no answer from the machine look at.
struct Context<'a> {
    machine: &'a dyn Machine,
    negotiated: &'a mut bool,
    progress: &'a mut bool,
}

/// The command's name and arguments, out of a request whose `id` has been taken.
fn split(members: Map<String, Value>) -> Result<(String, Map<String, Value>), CmdError> {
    let mut name = None;
    let mut arguments = Map::new();
    for (member, value) in members {
        match (member.as_str(), value) {
            ("execute", Value::String(text)) => name = Some(text),
            ("execute", _) => {
                return Err(CmdError::generic(
                    "QMP input member 'execute' must be a string",
                ));
            }
            ("arguments", Value::Object(object)) => arguments = object,
            ("arguments", _) => {
                return Err(CmdError::generic(
                    "QMP input member 'arguments' must be an object",
                ));
            }
            _ => {
                return Err(CmdError::generic(format!(
                    "QMP input member '{member}' is unexpected"
                )));
            }
        }
    }
    let name = name.ok_or_else(|| CmdError::generic("QMP input lacks member 'execute'"))?;
    Ok((name, arguments))
}

/// `VersionInfo`. Clients decide by the version of QEMU what they may ask for, so this names the
/// one whose words Strata speaks; the package says what it really is.
fn version() -> Value {
    let (major, minor, micro) = COMPATIBLE_VERSION;
    json!({"qemu": {"major": major, "minor": minor, "micro": micro}, "package": PACKAGE})
}

fn response(outcome: Outcome, id: Option<Value>) -> Vec<u8> {
    let mut members = Map::new();
    match outcome {
        Ok(Returned::Value(value)) => members.insert("return".to_owned(), value),
        Ok(Returned::Text(text)) => return text_response(&text, id),
        Err(CmdError { class, desc }) => {
            members.insert("error".to_owned(), json!({"class": class, "desc": desc}))
        }
    };
    members.extend(id.map(|id| ("id".to_owned(), id)));
    line(&Value::Object(members))
}

/// A response whose value is text already.
fn text_response(value: &str, id: Option<Value>) -> Vec<u8> {
    let mut text = String::with_capacity(value.len() + 64);
    // `print` has the two in this order.
    text.push_str("{\"return\": ");
    text.push_str(value);
    if let Some(id) = id {
        text.push_str(", \"id\": ");
        print(&id, &mut text);
    }
    text.push_str("}\r\n");
    text.into_bytes()
}

/// One line as it goes to the client.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut text = String::new();
    print(value, &mut text);
    text.push_str("\r\n");
    text.into_bytes()
}
