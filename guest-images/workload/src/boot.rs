//! From the kernel's hand-over to a usable system, and back out of it.

use crate::report::Serial;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The modules to load, one path a line, each after those that it depends on.
const MODULE_ORDER: &str = "/lib/modules/order";
/// Where reports go.
const SERIAL: &str = "/dev/ttyS0";

/// Mounts the kernel's file systems, opens the serial line and loads the modules.
pub fn prepare() -> Result<Serial, String> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).map_err(|e| format!("cannot create {target}: {e}"))?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .map_err(|e| format!("cannot mount {kind} on {target}: {e}"))?;
    }
    let serial = Serial::open(Path::new(SERIAL)).map_err(|e| format!("{SERIAL}: {e}"))?;
    load_modules()?;
    Ok(serial)
}

fn load_modules() -> Result<(), String> {
    let order = fs::read_to_string(MODULE_ORDER).map_err(|e| format!("{MODULE_ORDER}: {e}"))?;
    for path in order.lines() {
        let file = File::open(path).map_err(|e| format!("module {path}: {e}"))?;
        finit_module(&file, c"", 0).map_err(|e| format!("module {path} does not load: {e}"))?;
    }
    Ok(())
}

/// Waits until the kernel has found `/dev/NAME`, which for IDE happens after the module has loaded.
pub fn wait_for_device(name: &str, timeout: Duration) -> Result<(), String> {
    let path = Path::new("/dev").join(name);
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > timeout {
            let found = fs::read_dir("/sys/block")
                .map(|dir| {
                    dir.flatten()
                        .map(|e| e.file_name().to_string_lossy().into_owned())
                        .collect()
                })
                .unwrap_or_else(|_| Vec::new());
            return Err(format!(
                "no /dev/{name} after {timeout:?}; there is {found:?}"
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// An interactive shell on the serial console; returns when it exits.
pub fn shell() -> Result<(), String> {
    let busybox = "/bin/busybox";
    let installed = Command::new(busybox)
        .args(["--install", "-s", "/bin"])
        .status();
    installed.map_err(|e| format!("{busybox}: {e}"))?;
    let mut shell = Command::new(busybox);
    // cttyhack gives the shell a controlling terminal, and with it job control and Ctrl-C.
    shell
        .arg0("setsid")
        .args(["cttyhack", "/bin/sh"])
        .env("PATH", "/bin")
        .env("PS1", "guest# ");
    shell.status().map_err(|e| format!("{busybox} sh: {e}"))?;
    Ok(())
}

/// Powers the machine off through ACPI.
pub fn power_off() -> ! {
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("STRATA FAIL power off: {error:?}");
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}
