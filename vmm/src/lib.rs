//! The machine behind the `strata` binary, as a library so that its parts can be tested alone.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod boot;
pub mod cli;
mod core_dump;
pub mod ctl;
pub mod doctor;
pub mod guest_command;
mod kick_signal;
mod kvm;
mod layout;
pub mod machine;
pub mod monitor;
pub mod run_result;
pub mod serve;
mod vhost_user;
