//! The machine as the monitor sees it.

use std::sync::{Arc, Mutex, PoisonError};

use super::post::{Message, Post};
use crate::monitor::{Action, Answer, Machine, RunState};

/// What the machine is doing. The device thread says it, the monitor's reads it.
#[derive(Clone)]
pub struct State(Arc<Mutex<RunState>>);

impl State {
    /// Starts with `state`.
    pub fn new(state: RunState) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// The state now.
    pub fn get(&self) -> RunState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it.
    pub fn set(&self, state: RunState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Sends what the monitor asks for to the device thread.
pub struct Handle {
    post: Post,
    state: State,
}

impl Handle {
    /// Sends through `post`.
    pub fn new(post: Post, state: State) -> Self {
        Self { post, state }
    }
}

impl Machine for Handle {
    fn run_state(&self) -> RunState {
        self.state.get()
    }

    fn request(&self, action: Action, answer: Answer) {
        self.post.send(Message::Action(action, answer));
    }
}
