//! The machine behind the `strata` binary, as a library so that its parts can be tested alone.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

pub mod boot;
pub mod cli;
pub mod core_dump;
pub mod doctor;
pub mod guest_command;
pub mod kick_signal;
pub mod kvm;
pub mod layout;
pub mod machine;
pub mod monitor;
pub mod run_result;
pub mod serve;
pub mod vhost_user;
