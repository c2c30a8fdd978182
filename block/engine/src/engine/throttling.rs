//! `block_set_io_throttle`: what a guest may ask of a disk in a second.

use std::rc::Rc;

use strata_graph::{Backend, ThrottleGroup, Throttling};

use super::Engine;
use crate::api::{BlockSetIoThrottle, CmdError, ErrorClass};

impl Engine {
    /// Sets the limits of a disk, and of all that share them, or takes the disk out of its group
    /// where all are 0.
    pub(super) fn set_io_throttle(&self, cmd: &BlockSetIoThrottle) -> Result<(), CmdError> {
        let backend = self.find_backend(cmd)?;
        let former = backend
            .throttle_group()
            .map(|group| group.name().to_owned());
        let throttling = Throttling {
            limits: cmd.limits(),
            group: cmd.group.clone().or(former),
        };
        self.throttle(&backend, &throttling);
        Ok(())
    }

    /// Has the device's requests keep to limits.
    pub(super) fn throttle(&self, backend: &Rc<Backend>, throttling: &Throttling) {
        let Throttling { limits, group } = throttling;
        if !limits.is_set() {
            return backend.set_throttle_group(None);
        }
        let id = &backend.disk().options().id;
        let group = self.throttle_group(group.as_ref().unwrap_or(id));
        let former = backend.throttle_group();
        if !former.is_some_and(|former| Rc::ptr_eq(&former, &group)) {
            backend.set_throttle_group(Some(&group));
        }
        group.set_limits(*limits);
    }

    /// The group of this name, which is there as long as it has members.
    fn throttle_group(&self, name: &str) -> Rc<ThrottleGroup> {
        let backends = self.backends.borrow();
        let mut groups = backends
            .iter()
            .filter_map(|backend| backend.throttle_group());
        groups
            .find(|group| group.name() == name)
            .unwrap_or_else(|| ThrottleGroup::new(self.exec.clone(), name.to_owned()))
    }

    fn find_backend(&self, cmd: &BlockSetIoThrottle) -> Result<Rc<Backend>, CmdError> {
        let backends = self.backends.borrow();
        let named = |backend: &&Rc<Backend>| {
            let options = backend.disk().options();
            match (&cmd.device, &cmd.id) {
                (Some(name), _) => options.id == *name,
                (None, Some(id)) => is_device(&backend.device(), id),
                (None, None) => false,
            }
        };
        backends.iter().find(named).cloned().ok_or_else(|| {
            let name = cmd.device.as_ref().or(cmd.id.as_ref());
            CmdError {
                class: ErrorClass::DeviceNotFound,
                desc: format!("Device '{}' not found", name.map_or("", String::as_str)),
            }
        })
    }
}

/// Whether `id` names the device at `path`, as its id or as a path.
fn is_device(path: &str, id: &str) -> bool {
    let of_id = |rest: &str| rest.split('/').next() == Some(id);
    !path.is_empty() && (path == id || path.strip_prefix("/machine/peripheral/").is_some_and(of_id))
}
