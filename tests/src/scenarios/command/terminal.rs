//! A command on its caller's terminal.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// Prints the size at first, and whenever it changes.
const SCRIPT: &str = "trap 'stty size' WINCH; stty size; while :; do sleep 1; done";

/// Runs it.
pub fn has_its_size_and_a_way_out(fixture: &mut Fixture) -> Outcome<()> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("a terminal")?;
    grantpt(&master).context("a terminal")?;
    unlockpt(&master).context("a terminal")?;
    let name = ptsname(&master, Vec::new()).context("a terminal")?;
    let name = name.to_string_lossy().into_owned();
    let mut master = File::from(master);
    let terminal = File::options().read(true).write(true).open(&name);
    let terminal = terminal.context(&name)?;
    let copy = || terminal.try_clone().context(&name);
    set_size(&master, 30, 100)?;
    let mut command = Command::new("strata");
    command.arg("test").arg("--kernel");
    command.arg(fixture.images.join("vmlinuz"));
    command.args(["--", "sh", "-c", SCRIPT]);
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    let mut child = command.spawn().context("strata test")?;
    let mut said = String::new();
    let result = (|| {
        read_until(&mut master, &mut said, "30 100")?;
        set_size(&master, 40, 120)?;
        // The kernel signals only processes whose controlling terminal it is.
        kill_process(Pid::from_child(&child), Signal::WINCH).context("SIGWINCH")?;
        read_until(&mut master, &mut said, "40 120")?;
        master.write_all(b"\x01h").context("Ctrl-A H")?;
        read_until(&mut master, &mut said, "Ctrl-A X  ends the guest")?;
        master.write_all(b"\x01x").context("Ctrl-A X")?;
        read_until(&mut master, &mut said, "before the command had ended")
    })();
    if result.is_err() {
        // It may have ended.
        let _ = child.kill();
    }
    let status = child.wait().context("strata test")?;
    result?;
    ensure(status.code() == Some(125), || format!("{status}: {said}"))?;
    fixture.verified("terminal", "its size follows, and Ctrl-A X ends the guest");
    Ok(())
}

fn set_size(master: &File, rows: u16, columns: u16) -> Outcome<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).context("the terminal's size")
}

fn read_until(master: &mut File, said: &mut String, wanted: &str) -> Outcome<()> {
    let end = Instant::now() + LIMIT;
    let slice = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    while !said.contains(wanted) {
        ensure(Instant::now() < end, || format!("{wanted}: {said:?}"))?;
        let mut ready = [PollFd::new(&*master, PollFlags::IN)];
        if poll(&mut ready, Some(&slice)).context("poll")? > 0 {
            let mut bytes = [0; 1024];
            let count = master.read(&mut bytes).context(&said)?;
            *said += &String::from_utf8_lossy(&bytes[..count]);
        }
    }
    Ok(())
}
