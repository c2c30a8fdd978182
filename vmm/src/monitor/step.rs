//! One request on its way: answered already, or waiting for the machine.

use strata_block::api::{CmdError, Reply};

use super::machine::Action;

/// What becomes of the machine's answer.
pub(super) type Then<T> = Box<dyn FnOnce(Result<Reply, CmdError>) -> T + Send>;

/// What a request comes to.
pub(super) enum Step<T> {
    /// Here is the result.
    Done(T),
    /// The machine has to do this first.
    Ask(Action, Then<T>),
}

impl<T: 'static> Step<T> {
    /// Asks the machine for `action`, and makes the result of its answer.
    pub(super) fn ask(
        action: Action,
        then: impl FnOnce(Result<Reply, CmdError>) -> T + Send + 'static,
    ) -> Step<T> {
        Step::Ask(action, Box::new(then))
    }

    /// Applies `f` to the result, whenever it comes.
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U + Send + 'static) -> Step<U> {
        match self {
            Step::Done(result) => Step::Done(f(result)),
            Step::Ask(action, then) => Step::Ask(action, Box::new(move |reply| f(then(reply)))),
        }
    }
}
