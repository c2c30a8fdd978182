//! Programs that are run to their end.

use crate::error::{Context, Failed, Outcome};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A program that runs beside what else is done.
pub struct Running(thread::JoinHandle<Outcome<Ended>>);

impl Running {
    /// As [`run`], which it goes on with in the background.
    pub fn start(name: &'static str, args: Vec<String>, limit: Duration) -> Running {
        Running(thread::spawn(move || run(name, &args, limit)))
    }

    /// Waits for its end.
    pub fn end(self) -> Outcome<Ended> {
        self.0.join().expect("it does not panic")
    }
}

/// Runs a program with no standard input. Fails if it has not ended within `limit`; it is then
/// killed.
pub fn run<A: AsRef<OsStr> + Debug>(name: &str, args: &[A], limit: Duration) -> Outcome<Ended> {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(name)?;
    let stdout = read_in_background(child.stdout.take());
    let stderr = read_in_background(child.stderr.take());
    let end = Instant::now() + limit;
    let status = loop {
        match child.try_wait().context(name)? {
            Some(status) => break status,
            None if Instant::now() > end => {
                // It may end just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failed(format!(
                    "{name} {args:?} has not ended within {limit:?}"
                )));
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("it does not panic");
    Ok(Ended {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

fn read_in_background(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
