//! Whole-system tests: what a user sees of `strata` and `strata-img`, with a real guest inside.
//!
//! Nothing here uses the inside of the programs. A scenario (see [`scenarios`]) starts machines
//! ([`machine`]), talks to them over their sockets ([`hmp`], [`qmp`]), reads the guest's
//! serial line ([`serial`]) and looks at the images that are left ([`image`]).

pub mod error;
pub mod fixture;
pub mod frontend;
pub mod hmp;
pub mod image;
pub mod latency;
pub mod machine;
pub mod program;
pub mod qmp;
pub mod scenarios;
pub mod serial;
