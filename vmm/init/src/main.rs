//! What runs first in a guest of `strata test`: it prepares the guest, runs the command, passes its
//! streams on, reports its exit status, and powers off.
//!
//! Under the name `strata-exit` it ends the guest with a status of the caller's.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod channel;
mod command;
mod frame;
mod plan;
mod prepare;
mod results;
mod sys;

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::Path,
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use channel::Channel;
use plan::Plan;

/// Where `strata-exit` writes its status to.
const EXIT_PIPE: &str = "/run/strata/exit";
/// The guest could not be made ready for the command.
const NOT_READY: u8 = 125;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new("strata-exit")) {
        return exit_with(words.next());
    }
    if process::id() != 1 {
        eprintln!("strata-init: this is the first program of a guest of strata test");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => {}
        // Without the channel the kernel's console is all there is.
        Err(why) => eprintln!("strata-init: {why}"),
    }
    let why = sys::power_off();
    eprintln!("strata-init: cannot power off: {why}");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// `strata-exit N`.
fn exit_with(status: Option<std::ffi::OsString>) -> ExitCode {
    let status = status.and_then(|text| text.to_str()?.parse::<u8>().ok());
    let Some(status) = status else {
        eprintln!("usage: strata-exit STATUS, from 0 to 255");
        return ExitCode::from(2);
    };
    let written = fs::OpenOptions::new()
        .write(true)
        .open(EXIT_PIPE)
        .and_then(|mut pipe| pipe.write_all(&[status]));
    if let Err(error) = written {
        eprintln!("strata-exit: {EXIT_PIPE}: {error}");
        return ExitCode::FAILURE;
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn run() -> Result<(), String> {
    prepare::mount_kernel_file_systems()?;
    let channel = Arc::new(Channel::open()?);
    let status = carry_out(&channel).unwrap_or_else(|why| {
        channel.send(frame::MESSAGE, why.as_bytes());
        NOT_READY
    });
    channel.finish(status);
    Ok(())
}

/// Runs the command; its exit status.
fn carry_out(channel: &Arc<Channel>) -> Result<u8, String> {
    let bytes = fs::read(plan::PATH).map_err(|error| format!("{}: {error}", plan::PATH))?;
    let plan = Plan::parse(&bytes)?;
    prepare::load_modules(&plan.modules)?;
    prepare::check_drivers(&plan.built_in)?;
    let root = prepare::enter_root(&plan)?;
    prepare::place_shares(&plan.shares, &root)?;
    channel.send(frame::READY, &[]);
    let status = command::run(channel, &plan, &root)?;
    if plan.out {
        results::send(channel, Path::new(command::OUT))?;
    }
    prepare::leave_root(&root);
    Ok(status)
}
