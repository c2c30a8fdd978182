//! QEMU as the front end of a vhost-user export: another program's machine on our disk.

use crate::error::{Context, Failed, Outcome};
use crate::fixture::Fixture;
use crate::hmp::Hmp;
use crate::machine::Boot;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(30);

/// A running `qemu-system-x86_64`. Dropped, it is killed.
pub struct Frontend {
    child: Child,
    monitor: Hmp,
}

impl Frontend {
    /// Boots what `boot` says on QEMU's software CPU, with the export at `socket` as its disk
    /// `vda` with `queues` queues. The serial line goes to `serial`.
    pub fn start(
        fixture: &Fixture,
        name: &str,
        boot: &Boot,
        (socket, queues): (&Path, u16),
        serial: &Path,
    ) -> Outcome<Frontend> {
        let log = |kind: &str| fixture.logs.join(format!("{name}.{kind}"));
        let monitor = fixture.dir.join(format!("{name}.monitor.sock"));
        let mut command = Command::new("qemu-system-x86_64");
        // vhost-user needs guest memory that can be shared.
        command.args(["-machine", "q35,memory-backend=mem", "-accel", "tcg"]);
        command.args(["-cpu", "max", "-smp", "2", "-m", "256"]);
        command.args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on"]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command
            .arg("-kernel")
            .arg(fixture.images.join("vmlinuz"))
            .arg("-initrd")
            .arg(fixture.images.join("guest.img"));
        command.args(["-append", &boot.append()]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=disk,path={}", socket.display()))
            .arg("-device")
            .arg(format!(
                "vhost-user-blk-pci,chardev=disk,num-queues={queues}"
            ));
        command
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let errors = File::create(log("stderr")).context("log")?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
        match connect(&mut child, &monitor, &log("monitor")) {
            Ok(monitor) => Ok(Frontend { child, monitor }),
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Presses the power button, and waits until QEMU has ended by itself.
    pub fn power_off(mut self, seconds: u64) -> Outcome<()> {
        self.monitor.run("system_powerdown")?;
        self.wait(seconds)
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait(&mut self, seconds: u64) -> Outcome<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            match self.child.try_wait().context("qemu")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failed(format!("qemu ended with {status}"))),
                None => thread::sleep(POLL),
            }
        }
        Err(Failed(format!("qemu has not ended within {seconds} s")))
    }

    /// Runs a command in QEMU's human monitor.
    pub fn command(&mut self, line: &str) -> Outcome<String> {
        self.monitor.run(line)
    }

    /// Ends it by SIGKILL.
    pub fn kill(mut self) -> Outcome<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("kill").map(drop)
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(child: &mut Child, socket: &Path, transcript: &Path) -> Outcome<Hmp> {
    let end = Instant::now() + START;
    // The file is there a moment before QEMU listens.
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = child.try_wait().context("qemu")? {
            return Err(Failed(format!("qemu did not start: {status}")));
        }
        if Instant::now() > end {
            return Err(Failed(format!("no monitor of qemu after {START:?}")));
        }
        thread::sleep(POLL);
    }
    Hmp::connect(socket, transcript)
}
