//! What the monitor asks of the machine: values out, values back, no lock in between.

use serde::Deserialize;
use strata_block::api::{Cmd, CmdError, ErrorClass, ExportType, Reply};
use strata_devices::vhost_user::MAX_QUEUES;
use strata_storage::split_options;

use super::notice::{Message, Notifier};
use crate::cli::{disk::DiskOption, report::CoreOption};

/// The machine as the monitor sees it.
///
/// Both calls come from the monitor thread and must return at once: work is sent to the thread
/// that owns it, and the result travels back through the [`Answer`].
pub trait Machine: Send {
    /// What the machine is doing now.
    fn run_state(&self) -> RunState;

    /// Starts `action`. `answer` may be filled in before this returns, or much later, by any
    /// thread; an event that belongs to the action is to be sent before.
    fn request(&self, action: Action, answer: Answer);
}

/// `device_add`: a device that comes into a running machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceAdd {
    /// Its model: `virtio-blk-pci` or `virtio-blk`.
    pub driver: String,
    /// The bus, of which there is one: `pci.0`.
    pub bus: Option<String>,
    /// Its name.
    pub id: Option<String>,
    /// The disk that is its drive, by its id or the node name of its top layer.
    pub drive: Option<String>,
    /// Its PCI device number in hexadecimal digits; the first that is free if `None`.
    pub addr: Option<String>,
}

impl DeviceAdd {
    /// Reads `DRIVER,KEY=VALUE,...`, as people write it.
    ///
    /// # Errors
    /// One line on what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, CmdError> {
        let mut device = Self::default();
        for (number, part) in split_options(text.as_ref()).into_iter().enumerate() {
            let part = part.to_string_lossy().into_owned();
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None if number == 0 => ("driver", part.clone()),
                None => (part.as_str(), "on".to_owned()),
            };
            match key {
                "driver" => device.driver = value,
                "bus" => device.bus = Some(value),
                "id" => device.id = Some(value),
                "drive" => device.drive = Some(value),
                "addr" => device.addr = Some(value),
                _ => {
                    let driver = &device.driver;
                    let desc = format!("Property '{driver}.{key}' not found");
                    return Err(CmdError::generic(desc));
                }
            }
        }
        Ok(device)
    }
}

/// Something for the machine to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A command for the block layer.
    Block(Box<Cmd>),
    /// `stop`: no vCPU runs when this is answered. Answered at once if it is so already.
    Stop,
    /// `cont`.
    Cont,
    /// `system_reset`.
    SystemReset,
    /// `system_powerdown`: press the power button. What the guest makes of it comes later.
    SystemPowerdown,
    /// `system_wakeup`: wake a guest that has suspended to memory.
    SystemWakeup,
    /// `dump-guest-memory`: answered when the core is written, and the machine goes on.
    Dump(CoreOption),
    /// `drive_add`: a disk with an id and without a device.
    DriveAdd(Box<DiskOption>),
    /// `drive_del`: closes the disk with this id.
    DriveDel(String),
    /// `device_add`.
    DeviceAdd(DeviceAdd),
    /// `device_del` of the device with this id: the guest is asked to let go of it.
    DeviceDel(String),
    /// `quit`: end in the orderly way. Answered before the monitor is dropped.
    Quit,
}

/// Refuses a command that the block layer or a device would refuse whatever the disks are, so that
/// the machine need not be asked.
///
/// # Errors
/// As [`Cmd::check`], and a number of queues that no device has.
pub(super) fn check(cmd: &Cmd) -> Result<(), CmdError> {
    cmd.check()?;
    match cmd {
        Cmd::BlockExportAdd(export)
            if export.kind == ExportType::VhostUserBlk
                && !(1..=MAX_QUEUES).contains(&export.num_queues.unwrap_or(1)) =>
        {
            let desc = format!("Parameter 'num-queues' expects 1 to {MAX_QUEUES}");
            Err(CmdError::generic(desc))
        }
        _ => Ok(()),
    }
}

/// `RunState`: what `query-status` and `info status` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Not started yet (`--paused`).
    Prelaunch,
    /// vCPUs run.
    Running,
    /// Stopped by `stop`.
    Paused,
    /// Stopped because a disk has failed; the request is tried again at `cont`.
    IoError,
    /// The guest has suspended to memory.
    Suspended,
    /// Stopped because the guest's kernel has panicked.
    GuestPanicked,
    /// The guest has powered off, or the machine is being taken down.
    Shutdown,
    /// KVM gave up on a vCPU.
    InternalError,
}

impl RunState {
    /// The name in QMP.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Prelaunch => "prelaunch",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::IoError => "io-error",
            RunState::Suspended => "suspended",
            RunState::GuestPanicked => "guest-panicked",
            RunState::Shutdown => "shutdown",
            RunState::InternalError => "internal-error",
        }
    }
}

/// The place where the result of one [`Action`] is to be put. Dropped without a result (the thread
/// that had it is gone), it answers with an error, so that no client waits for ever.
#[derive(Debug)]
pub struct Answer {
    client: u64,
    notifier: Notifier,
    sent: bool,
}

impl Answer {
    /// An answer for the client with this token.
    pub(crate) fn new(client: u64, notifier: Notifier) -> Answer {
        Answer {
            client,
            notifier,
            sent: false,
        }
    }

    /// Delivers the result to the client that asked.
    pub fn send(mut self, result: Result<Reply, CmdError>) {
        self.deliver(result);
    }

    fn deliver(&mut self, result: Result<Reply, CmdError>) {
        self.sent = true;
        self.notifier.post(Message::Answer {
            client: self.client,
            result,
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.sent {
            self.deliver(Err(CmdError {
                class: ErrorClass::GenericError,
                desc: "The machine ended before it answered".to_owned(),
            }));
        }
    }
}
