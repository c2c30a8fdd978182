//! A running `strata run`, or `strata serve` with a guest elsewhere.

use crate::error::{Context, Failed, Outcome};
use crate::fixture::Fixture;
use crate::hmp::Hmp;
use crate::qmp::Qmp;
use crate::serial::Serial;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SOCKETS_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What to boot.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// Values of `--disk`.
    pub disks: Vec<String>,
    /// Words for the guest's workload, without the leading `strata.`.
    pub workload: Vec<String>,
    /// The script that the guest runs, which needs the image with tools.
    pub script: Option<&'static str>,
    /// More words for the guest's kernel.
    pub kernel: Vec<String>,
    /// More options of `strata run`.
    pub options: Vec<String>,
    /// There is no kernel but the one that a disk's boot loader finds.
    pub by_firmware: bool,
}

impl Boot {
    /// The guest kernel's command line.
    pub fn append(&self) -> String {
        let fixed = ["console=ttyS0", "quiet", "panic=-1"].map(str::to_owned);
        let script = self.script.iter();
        let script = script.flat_map(|name| ["mode=script".into(), format!("script={name}")]);
        let words = self.workload.iter().cloned().chain(script);
        let words = words.map(|word| format!("strata.{word}"));
        let words = fixed
            .into_iter()
            .chain(self.kernel.iter().cloned())
            .chain(words);
        words.collect::<Vec<_>>().join(" ")
    }
}

/// A machine with its sockets connected. Dropped, it is killed.
pub struct Machine {
    child: Child,
    /// The human monitor.
    pub hmp: Hmp,
    /// The machine-readable monitor.
    pub qmp: Qmp,
    /// The guest's serial line.
    pub serial: Serial,
    stderr: PathBuf,
}

impl Machine {
    /// Starts `strata run`. `name` names its logs.
    pub fn start(fixture: &Fixture, name: &str, boot: &Boot) -> Outcome<Machine> {
        let serial = fixture.logs.join(format!("{name}.serial"));
        let mut command = Command::new("strata");
        command.arg("run");
        if !boot.options.iter().any(|option| option == "--memory") {
            command.args(["--memory", "256M"]);
        }
        if !boot.by_firmware {
            command.arg("--kernel").arg(fixture.images.join("vmlinuz"));
            let initrd = boot.script.map_or("guest.img", |_| "tools.img");
            command.arg("--initrd").arg(fixture.images.join(initrd));
            command.args(["--append", &boot.append()]);
        }
        for disk in &boot.disks {
            command.args(["--disk", disk]);
        }
        command
            .arg("--serial")
            .arg(format!("file:{}", serial.display()));
        command.args(&boot.options);
        Machine::launch(fixture, name, command, &serial)
    }

    /// Starts `strata run` with a kernel that is not Linux, which writes to `NAME.serial`.
    pub fn start_kernel(
        fixture: &Fixture,
        name: &str,
        kernel: &Path,
        append: &str,
    ) -> Outcome<Machine> {
        let serial = fixture.logs.join(format!("{name}.serial"));
        let mut command = Command::new("strata");
        command.arg("run").arg("--kernel").arg(kernel);
        command.args(["--append", append, "--memory", "64M", "--serial"]);
        command.arg(format!("file:{}", serial.display()));
        Machine::launch(fixture, name, command, &serial)
    }

    /// Starts `strata serve` with these options. The guest that uses the disks is another
    /// program's, which writes its serial line to `serial`.
    pub fn serve(
        fixture: &Fixture,
        name: &str,
        options: &[String],
        serial: &Path,
    ) -> Outcome<Machine> {
        let mut command = Command::new("strata");
        command.arg("serve").args(options);
        Machine::launch(fixture, name, command, serial)
    }

    /// From now on `serial` is where the guest's serial line goes.
    pub fn follow(&mut self, serial: &Path) {
        self.serial = Serial::follow(serial);
    }

    /// Starts `command` with both monitors, and connects to them.
    fn launch(
        fixture: &Fixture,
        name: &str,
        mut command: Command,
        serial: &Path,
    ) -> Outcome<Machine> {
        let log = |kind: &str| fixture.logs.join(format!("{name}.{kind}"));
        let socket = |kind: &str| fixture.dir.join(format!("{name}.{kind}.sock"));
        let stderr = log("stderr");
        command
            .arg("--monitor")
            .arg(format!("unix:{}", socket("hmp").display()));
        command
            .arg("--qmp")
            .arg(format!("unix:{}", socket("qmp").display()));
        let errors = File::create(&stderr).context(stderr.display())?;
        fs::write(log("command"), format!("{command:?}\n")).context("log")?;
        let output = File::create(log("stdout")).context("log")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().context("cannot start strata")?;

        let mut child = Guard(Some(child));
        wait_for_sockets(&mut child, &[socket("hmp"), socket("qmp")], &stderr)?;
        let hmp = Hmp::connect(&socket("hmp"), &log("hmp"));
        let hmp = hmp.map_err(|error| Failed(error.0 + &last_words(&stderr)))?;
        let qmp = Qmp::connect(&socket("qmp"), &log("qmp"))?;
        let child = child.0.take().expect("nobody else takes it");
        Ok(Machine {
            child,
            hmp,
            qmp,
            serial: Serial::follow(serial),
            stderr,
        })
    }

    /// Waits until the guest's reports meet `condition`. Fails when the guest fails, strata ends,
    /// or `seconds` have passed.
    pub fn wait_serial(
        &mut self,
        what: &str,
        seconds: u64,
        condition: impl Fn(&Serial) -> bool,
    ) -> Outcome<()> {
        self.wait(what, seconds, |machine| Ok(condition(&machine.serial)))
    }

    /// Waits until the workload has begun to write for the `times`th time.
    pub fn wait_start(&mut self, times: u32, seconds: u64) -> Outcome<()> {
        let what = "start of the workload";
        self.wait_serial(what, seconds, |serial| serial.starts == times)
    }

    /// Like [`Machine::wait_serial`], with any condition.
    pub fn wait(
        &mut self,
        what: &str,
        seconds: u64,
        mut condition: impl FnMut(&mut Machine) -> Outcome<bool>,
    ) -> Outcome<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let exit = self.child.try_wait().context("strata")?;
            self.serial.update()?;
            if condition(self)? {
                return Ok(());
            }
            if let Some(status) = exit {
                let message = format!("strata ended ({status}) before {what}");
                return Err(Failed(message + &last_words(&self.stderr)));
            }
            if Instant::now() > end {
                let message = format!("no {what} within {seconds} s");
                return Err(Failed(message + &last_words(&self.stderr)));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for strata to end by itself.
    pub fn wait_exit(&mut self, seconds: u64) -> Outcome<ExitStatus> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().context("strata")? {
                self.serial.update()?;
                return Ok(status);
            }
            // A failure in the guest explains more than the exit status does.
            self.serial.update()?;
            if Instant::now() > end {
                return Err(Failed(format!("strata has not ended within {seconds} s")));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for strata to end by itself with status 0.
    pub fn wait_success(&mut self, seconds: u64) -> Outcome<()> {
        let status = self.wait_exit(seconds)?;
        if status.success() {
            return Ok(());
        }
        Err(Failed(format!(
            "strata ended with {status}{}",
            last_words(&self.stderr)
        )))
    }

    /// Ends it by SIGKILL, and reads what the guest had reported by then.
    pub fn kill(&mut self) -> Outcome<()> {
        if let Some(status) = self.child.try_wait().context("strata")? {
            return Err(Failed(format!(
                "strata ended by itself ({status}) before it was killed"
            )));
        }
        self.child.kill().context("kill")?;
        self.child.wait().context("kill")?;
        self.serial.update()
    }

    /// Asks it to end, by SIGTERM.
    pub fn terminate(&mut self) -> Outcome<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("SIGTERM")
    }

    /// The files that strata has open.
    pub fn open_files(&self) -> Outcome<Vec<PathBuf>> {
        let dir = format!("/proc/{}/fd", self.child.id());
        let entries = fs::read_dir(&dir).context(&dir)?;
        Ok(entries
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect())
    }

    /// Whether strata has this file open.
    pub fn has_open(&self, path: &Path) -> Outcome<bool> {
        Ok(self.open_files()?.iter().any(|open| open == path))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a child whose machine never came to be.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for_sockets(child: &mut Guard, sockets: &[PathBuf], stderr: &Path) -> Outcome<()> {
    let end = Instant::now() + SOCKETS_TIMEOUT;
    while !sockets.iter().all(|path| path.exists()) {
        let child = child.0.as_mut().expect("taken only when connected");
        if let Some(status) = child.try_wait().context("strata")? {
            return Err(Failed(format!(
                "strata did not start: {status}{}",
                last_words(stderr)
            )));
        }
        if Instant::now() > end {
            return Err(Failed(format!(
                "no monitor sockets after {SOCKETS_TIMEOUT:?}"
            )));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The last line of a program's standard error, to be added to a message.
fn last_words(stderr: &Path) -> String {
    let text = fs::read_to_string(stderr).unwrap_or_default();
    match text.trim() {
        "" => String::new(),
        text => format!("; it said: {}", text.lines().last().unwrap_or_default()),
    }
}
