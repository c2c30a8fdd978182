//! Scripts that work with programs of others, and judge the machine by what these say.

use crate::report::Serial;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Runs `/scripts/NAME` by busybox's shell. Each line that it prints is reported; it fails with the
/// last one.
pub fn run(serial: &Serial, name: &str) -> Result<(), String> {
    let busybox = "/bin/busybox";
    let installed = Command::new(busybox)
        .args(["--install", "-s", "/bin"])
        .status();
    installed.map_err(|e| format!("{busybox}: {e}"))?;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", ". \"$0\" 2>&1"])
        .arg(format!("/scripts/{name}"))
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("/bin/sh: {e}"))?;
    let output = child.stdout.take().expect("piped above");
    let mut last = "nothing".to_owned();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.map_err(|e| format!("{name}: {e}"))?;
        last = String::from_utf8_lossy(&line).trim_end().to_owned();
        serial.line(&format!("STRATA said {last}"));
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    if !status.success() {
        return Err(format!("{name} ended with {status}; it last said: {last}"));
    }
    serial.line("STRATA pass");
    Ok(())
}
