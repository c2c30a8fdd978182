//! Jobs: long work on a chain, in steps between guest requests.

mod active_commit;
mod commit;
mod group;
mod job;
mod layers;
mod lifecycle;
#[cfg(test)]
mod one_disk;
mod pace;
mod progress;
mod record;
mod registry;
mod relink;
mod steps;
mod store;
mod stream;
mod stride;
mod survey;

pub(crate) use active_commit::ActiveCommit;
pub(crate) use commit::Commit;
pub(crate) use group::Membership;
pub(crate) use job::{Begun, Job, JobOptions};
pub(crate) use lifecycle::{Ending, Work};
pub(crate) use record::{Layer, Record, Shape, State};
pub(crate) use registry::Jobs;
pub(crate) use relink::{NewBase, Relink};
pub(crate) use store::{Journal, PastJob, Store};
pub(crate) use stream::Stream;
