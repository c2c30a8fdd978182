//! Devices that come into the machine and go while it runs.

use event_manager::{SubscriberId, SubscriberOps};
use strata_block::api::CmdError;
use strata_devices::pci::SharedPciDevice;

use super::Control;
use crate::{
    cli::disk::{DiskOption, Place},
    machine::disks::{Plug, Worker, metered, spec},
    monitor::{Answer, DeviceAdd, Notice, RunState},
};

/// A device that has come since the machine was put together.
pub(super) struct Plugged {
    id: Option<String>,
    path: String,
    /// Its PCI device number.
    device: u8,
    worker: Worker,
    subscriber: SubscriberId,
    /// The guest has let go of it, or has gone itself: it is off the bus, and goes once its
    /// requests have ended.
    gone: Option<Option<SharedPciDevice>>,
}

impl Control {
    /// `drive_add`: opens a disk that a device can have as its drive.
    pub(super) fn add_drive(&mut self, option: &DiskOption, answer: Answer) {
        let place = Place {
            index: 0,
            id: option.id.clone().unwrap_or_default(),
        };
        let spec = spec(option, &place, &self.parts.plug.temporary);
        let reply = Box::new(move |added| answer.send(added));
        self.parts.engine.drive_add(spec, reply);
        self.turn.more_work_now = true;
    }

    /// `drive_del`: closes a disk that no device has.
    pub(super) fn delete_drive(&mut self, id: String, answer: Answer) {
        let reply = Box::new(move |deleted| answer.send(deleted));
        self.parts.engine.drive_del(id, reply);
        self.turn.more_work_now = true;
    }

    /// `device_add`.
    pub(super) fn add_device(&mut self, wanted: &DeviceAdd) -> Result<(), CmdError> {
        let driver = &wanted.driver;
        if !matches!(driver.as_str(), "virtio-blk-pci" | "virtio-blk") {
            let desc = format!("'{driver}' is not a valid device model name");
            return Err(CmdError::generic(desc));
        }
        if let Some(bus) = wanted.bus.as_ref().filter(|bus| *bus != "pci.0") {
            return Err(CmdError::generic(format!("Bus '{bus}' not found")));
        }
        if let Some(id) = &wanted.id
            && self.plugged.iter().any(|one| one.id.as_ref() == Some(id))
        {
            return Err(CmdError::generic(format!("Duplicate device ID '{id}'")));
        }
        let device = self.device_number(wanted.addr.as_deref())?;
        let drive = wanted.drive.as_deref();
        let drive = drive.ok_or_else(|| CmdError::generic("drive property not set"))?;
        let path = match &wanted.id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/peripheral-anon/device[pci-{device}]"),
        };
        let disk = self
            .parts
            .engine
            .give_to_device(drive, &backend_path(&path))?;
        let (disk, meter) = metered(drive.to_owned(), disk);
        // A guest that has not been started finds it as if it had always been there.
        let hot = self.started.is_some();
        let parts = &mut self.parts;
        let made = parts.plug.virtio(&mut parts.board, disk, device, hot);
        let worker = made.map_err(|error| {
            parts.engine.take_from_device(&backend_path(&path));
            CmdError::generic(error.to_string())
        })?;
        if parts.state.get() != RunState::Running {
            worker.stop();
        }
        let subscriber = parts.events.add_subscriber(worker.subscriber());
        parts.workers.push(worker.clone());
        parts.meters.push(meter);
        parts.board.plug(device);
        self.plugged.push(Plugged {
            id: wanted.id.clone(),
            path,
            device,
            worker,
            subscriber,
            gone: None,
        });
        Ok(())
    }

    /// The PCI device number that `addr` means, or the first that is free.
    fn device_number(&self, addr: Option<&str>) -> Result<u8, CmdError> {
        let Some(addr) = addr else {
            let free = self.parts.board.free_device(Plug::DEVICES);
            return free.ok_or_else(|| {
                CmdError::generic(
                    "PCI: no slot/function available for virtio-blk-pci, all in use or reserved",
                )
            });
        };
        let digits = addr.strip_prefix("0x").unwrap_or(addr);
        let digits = digits.strip_suffix(".0").unwrap_or(digits);
        let device = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|device| Plug::DEVICES.contains(device))
            .ok_or_else(|| {
                CmdError::generic(format!(
                    "Property 'virtio-blk-pci.addr' doesn't take value '{addr}'"
                ))
            })?;
        let free = self.parts.board.free_device(device..device + 1);
        free.ok_or_else(|| {
            let desc =
                format!("PCI: slot {device} function 0 not available for virtio-blk-pci, in use");
            CmdError::generic(desc)
        })
    }

    /// `device_del`: asks the guest to let go of a device.
    pub(super) fn delete_device(&mut self, id: &str) -> Result<(), CmdError> {
        let named = |one: &&Plugged| one.id.as_deref() == Some(id) || one.path == id;
        let plugged = self.plugged.iter().find(named);
        let plugged = plugged.ok_or_else(|| CmdError::device_not_found(id))?;
        if plugged.gone.is_some() || !self.parts.board.ask_to_eject(plugged.device) {
            return Err(CmdError::generic(format!(
                "Device {id} is already in the process of unplug"
            )));
        }
        Ok(())
    }

    /// The guest has let go of devices: they are off the bus from now on.
    pub(super) fn on_ejected(&mut self) {
        let ejected = self.parts.board.take_ejected();
        for plugged in &mut self.plugged {
            if ejected & 1 << plugged.device != 0 && plugged.gone.is_none() {
                plugged.gone = Some(self.parts.board.remove(plugged.device));
            }
        }
    }

    /// Lets go of devices that are off the bus and have no requests under way.
    pub(super) fn let_go(&mut self) {
        let is_done = |one: &mut Plugged| one.gone.is_some() && one.worker.is_idle();
        let done: Vec<_> = self.plugged.extract_if(.., is_done).collect();
        for plugged in done {
            let parts = &mut self.parts;
            if let Err(error) = parts.events.remove_subscriber(plugged.subscriber) {
                tracing::warn!(?error, "a device's events could not be forgotten");
            }
            parts.workers.retain(|worker| !worker.is(&plugged.worker));
            let behind = backend_path(&plugged.path);
            parts.engine.take_from_device(&behind);
            for (device, path) in [(None, behind), (plugged.id, plugged.path)] {
                let notice = Notice::DeviceDeleted { device, path };
                parts.notifier.notify(notice);
            }
        }
    }
}

/// The path of what lies behind the device's transport, which has the drive.
fn backend_path(path: &str) -> String {
    format!("{path}/virtio-backend")
}
