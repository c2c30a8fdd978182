//! Where the machine is going: what was asked for, the steps to it, and what may be done on the
//! way.
//!
//! Only decisions are here. [`Control`](super::Control) takes the steps, and says when one is done.

use std::collections::VecDeque;

use crate::{
    machine::post::Message,
    monitor::{Action, RunState},
};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The guest stands still, what it has written is durable, and this is what the machine is
    /// doing.
    Stop(RunState),
    /// The machine is as after power-on, and runs or not as before.
    Reset {
        /// The guest has asked for it.
        guest: bool,
    },
    /// The guest stands still, and what it has written is durable; it has suspended to memory.
    Suspend,
    /// A guest that has suspended to memory goes on, its devices as after power-on.
    WakeUp,
    /// A core of the guest's memory is written, and the machine runs or not as before.
    Dump,
    /// Every disk is closed.
    End,
}

/// What brings the machine nearer to a goal. It takes as long as requests that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The guest stands still, and no request of its is under way.
    Drain,
    /// What it has written is durable.
    Flush,
    /// The devices are as after power-on, and have let go of the guest's memory.
    ResetDevices,
    /// A core of the guest's memory is written.
    Dump,
    /// What people will want to know of the guest has been looked at, and its memory is written if
    /// that is wanted.
    LookBack,
    /// Every disk is closed.
    Close,
}

impl Goal {
    fn steps(self) -> &'static [Step] {
        match self {
            Self::Stop(_) | Self::Suspend => &[Step::Drain, Step::Flush],
            Self::Reset { .. } | Self::WakeUp => &[Step::Drain, Step::Flush, Step::ResetDevices],
            Self::Dump => &[Step::Drain, Step::Dump],
            Self::End => &[Step::Drain, Step::Flush, Step::LookBack, Step::Close],
        }
    }
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This one.
    Next(Step),
    /// Nothing: the goal is reached.
    Reached(Goal),
}

/// What becomes of a message that comes on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is attended to.
    Now,
    /// It waits.
    Later,
    /// It waits, and its sender does not want to wait for servers that have gone.
    LaterAndHurry,
}

/// The way to what was asked for. Without a goal the machine is steady: it runs or stands still.
#[derive(Debug, Default)]
pub struct Course {
    /// What the machine is going to, and what it goes to after that.
    goals: VecDeque<Goal>,
    /// Steps to the first one that are done.
    done: usize,
}

impl Course {
    /// Nothing is under way.
    pub fn is_steady(&self) -> bool {
        self.goals.is_empty()
    }

    /// Whether the machine is going to `goal`.
    pub fn leads_to(&self, goal: Goal) -> bool {
        self.goals.contains(&goal)
    }

    /// What the machine is going to next.
    pub fn goal(&self) -> Option<Goal> {
        self.goals.front().copied()
    }

    /// Adds a goal; returns the step to begin with if the machine was steady.
    pub fn add(&mut self, goal: Goal) -> Option<Step> {
        let was_steady = self.is_steady();
        self.goals.push_back(goal);
        self.step().filter(|_| was_steady)
    }

    /// The step that is under way.
    pub fn step(&self) -> Option<Step> {
        let goal = self.goals.front()?;
        goal.steps().get(self.done).copied()
    }

    /// The step that was under way is done. What follows it is under way now; behind the last one
    /// to a goal that is the first one to the next, if there is one.
    pub fn step_done(&mut self) -> Option<Progress> {
        let goal = *self.goals.front()?;
        self.done += 1;
        if let Some(step) = self.step() {
            return Some(Progress::Next(step));
        }
        self.goals.pop_front();
        self.done = 0;
        Some(Progress::Reached(goal))
    }

    /// What becomes of `message` now. Commands for the block layer never wait.
    pub fn admit(&self, message: &Message) -> Admission {
        match message {
            _ if self.is_steady() => Admission::Now,
            Message::Action(Action::Block(_), _) => Admission::Now,
            Message::Action(Action::Quit, _) | Message::Signal | Message::Leave => {
                Admission::LaterAndHurry
            }
            _ => Admission::Later,
        }
    }
}

#[cfg(test)]
mod tests;
