//! Jobs: long work on a chain, in steps between guest requests.

mod commit;
mod job;
mod lifecycle;
mod pace;
mod registry;
mod steps;
mod stream;
mod stride;

pub(crate) use commit::Commit;
pub(crate) use job::{Job, JobOptions};
pub(crate) use lifecycle::Work;
pub(crate) use registry::Jobs;
pub(crate) use stream::{NewBase, Stream};
