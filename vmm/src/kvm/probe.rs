//! Whether this host's KVM can run an operating system.
//!
//! Some machines have a `/dev/kvm` that answers every ioctl but interprets the guest's kernel code
//! and cannot run its user mode. A guest on it boots for a while and then spins or stops without a
//! word. So the probe runs a guest of a few instructions that enters user mode, makes a system call
//! and says where it arrived; it is bounded in time.

mod guest;

use std::{io, sync::mpsc, thread, time::Duration};

use kvm_ioctls::Kvm;
use vmm_sys_util::signal::Killable;

use super::{KvmError, missing_capabilities};
use crate::kick_signal;

/// The device.
const DEVICE: &str = "/dev/kvm";
/// The interface version that has been current since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// What the probe guest is given. It needs microseconds, but a nested host under load may take a
/// second to run it at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the vCPU is given to stop after that.
const GRACE: Duration = Duration::from_millis(300);

/// Why guests cannot be run here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No device file.
    #[error(
        "{DEVICE} does not exist: load the module kvm_intel or kvm_amd, switch virtualisation (VT-x, \
         SVM) on in the firmware, or, in a virtual machine, enable nested virtualisation"
    )]
    Missing,
    /// The device file may not be opened.
    #[error("no permission to open {DEVICE}: join the group that owns it (`kvm`) or run as root")]
    NoPermission,
    /// Opening failed otherwise; the kernel's module is there but found no hardware.
    #[error(
        "could not open {DEVICE}: {0}: check that the processor has VT-x or SVM and that the firmware \
         leaves it on"
    )]
    Open(io::Error),
    /// Not the interface this program speaks.
    #[error("{DEVICE} speaks version {0} of its interface, not {API_VERSION}: update the kernel")]
    Version(i32),
    /// Too old or too small a kernel.
    #[error("{DEVICE} lacks {}: update the kernel", .0.join(", "))]
    Lacks(Vec<&'static str>),
    /// A call of the probe failed.
    #[error("{DEVICE} cannot run a guest: {0}")]
    Failed(#[from] KvmError),
    /// The other kind of KVM.
    #[error(
        "{DEVICE} cannot run user programs in a guest ({0}): this host emulates KVM without VT-x or \
         SVM behind it, or is overloaded; use a machine with hardware virtualisation, or the test \
         host (ci/testhost)"
    )]
    NoUserMode(String),
}

/// Opens KVM and makes sure that it can run an operating system. Takes milliseconds where it can;
/// where it cannot, at most a little more than [`PATIENCE`].
///
/// # Errors
/// Why it cannot.
pub fn open() -> Result<Kvm, Unusable> {
    let kvm = Kvm::new().map_err(|error| classify(super::to_io(error)))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Unusable::Version(version));
    }
    let missing = missing_capabilities(&kvm);
    if !missing.is_empty() {
        return Err(Unusable::Lacks(missing));
    }
    run_probe()?;
    Ok(kvm)
}

/// What an error of opening the device means.
fn classify(error: io::Error) -> Unusable {
    match error.kind() {
        io::ErrorKind::NotFound => Unusable::Missing,
        io::ErrorKind::PermissionDenied => Unusable::NoPermission,
        _ => Unusable::Open(error),
    }
}

/// Runs the probe guest on a thread that can be given up.
fn run_probe() -> Result<(), Unusable> {
    kick_signal::install();
    let (to_here, outcome) = mpsc::channel();
    let (to_kick, kick) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            // The receiver may have given up; then nobody wants the answer.
            let _ = to_here.send(guest::run(&to_kick));
        })
        .map_err(Unusable::Open)?;
    if let Ok(outcome) = outcome.recv_timeout(PATIENCE) {
        return outcome;
    }
    if let Ok(kick) = kick.try_recv() {
        kick.set(true);
        // An error means that the thread has just ended.
        let _ = thread.kill(kick_signal::number());
    }
    // A vCPU that cannot even be stopped is left behind: this process is about to end.
    let stopped = outcome.recv_timeout(GRACE).is_ok();
    Err(Unusable::NoUserMode(format!(
        "the probe guest did not arrive in its kernel within {} s{}",
        PATIENCE.as_secs(),
        if stopped {
            ""
        } else {
            " and could not be stopped"
        }
    )))
}

#[cfg(test)]
mod tests;
