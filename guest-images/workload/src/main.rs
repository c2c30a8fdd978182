//! `strata-workload`: the guest's `/init`. It writes self-describing blocks and verifies them.
//!
//! What it does is chosen on the kernel command line (see [`params`]); all that it reports goes to
//! the first serial port, one line each (see [`report`]).
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod boot;
mod button;
mod disk;
mod ending;
mod lane;
mod params;
mod port;
mod report;
mod script;
mod stream;
mod unit;
mod verify;
mod write;

use params::{Mode, Params};
use report::{Failure, Serial};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("strata-workload: this is a guest's /init; run it by booting it (strata run)");
        return ExitCode::from(2);
    }
    let serial = match boot::prepare() {
        Ok(serial) => Arc::new(serial),
        Err(message) => {
            // No serial line of our own yet: the kernel's console is all there is.
            eprintln!("STRATA FAIL boot: {message}");
            boot::power_off();
        }
    };
    report_panics(&serial);
    if let Err(failure) = run(&serial) {
        serial.line(&failure.to_string());
    }
    serial.drain();
    boot::power_off()
}

fn run(serial: &Arc<Serial>) -> Result<(), Failure> {
    let params = Params::from_kernel().map_err(Failure::Setup)?;
    match params.mode {
        Mode::Shell => boot::shell().map_err(Failure::Setup),
        Mode::Verify => verify::run(serial, &params),
        Mode::Script => script::run(serial, &params.script).map_err(Failure::Setup),
        Mode::Panic => ending::panic().map_err(Failure::Setup),
        Mode::Exit => ending::exit(params.code).map_err(Failure::Setup),
        Mode::Reset => ending::reset().map_err(Failure::Setup),
        Mode::Hang => ending::hang().map_err(Failure::Setup),
        Mode::Write => write::run(serial, &params),
    }
}

/// Makes a panic in any thread end as every other failure does: one line, then power off.
fn report_panics(serial: &Arc<Serial>) {
    let serial = Arc::clone(serial);
    std::panic::set_hook(Box::new(move |info| {
        serial.line(&format!("STRATA FAIL panic: {info}"));
        serial.drain();
        boot::power_off();
    }));
}
