//! Why a scenario fails.

use std::fmt::Display;

/// What was expected and what happened instead, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

/// The result of everything that a scenario does.
pub type Outcome<T> = Result<T, Failed>;

/// Adds to an error what was being done.
pub trait Context<T> {
    /// `what` says what was being done, and on what.
    fn context(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failed(format!("{what}: {error}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.ok_or_else(|| Failed(what.to_string()))
    }
}

/// Fails with `message` unless `condition` holds.
pub fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome<()> {
    if condition {
        Ok(())
    } else {
        Err(Failed(message()))
    }
}
