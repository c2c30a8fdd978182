//! Doubles for what PCI devices need from the hypervisor, and a function for the bus's tests.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{ConfigSpace, PciDevice};
use crate::host::{MsiMessage, MsiVector, PciHost};

/// What the hypervisor sees of a vector.
pub struct FakeVector {
    route: Mutex<Option<MsiMessage>>,
    eventfd: EventFd,
}

impl FakeVector {
    pub fn route(&self) -> Option<MsiMessage> {
        *self.route.lock().unwrap()
    }

    /// Signals since the last call.
    pub fn take_signals(&self) -> u64 {
        self.eventfd.read().unwrap_or(0)
    }
}

struct Handle(Arc<FakeVector>);

impl MsiVector for Handle {
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        *self.0.route.lock().unwrap() = message;
        Ok(())
    }

    fn eventfd(&self) -> &EventFd {
        &self.0.eventfd
    }
}

/// A hypervisor that keeps the vectors it gave, and signals eventfds when a guest writes to them.
#[derive(Default)]
pub struct FakeHost {
    vectors: Mutex<Vec<Arc<FakeVector>>>,
    doorbells: Mutex<BTreeMap<u64, EventFd>>,
}

impl FakeHost {
    pub fn vector(&self, index: usize) -> Arc<FakeVector> {
        self.vectors.lock().unwrap()[index].clone()
    }

    pub fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().keys().copied().collect()
    }

    /// A guest's MMIO write; whether a doorbell took it.
    pub fn write(&self, address: u64) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        let doorbell = doorbells.get(&address);
        doorbell.inspect(|fd| fd.write(1).unwrap()).is_some()
    }
}

impl PciHost for FakeHost {
    fn new_vector(&self) -> io::Result<Box<dyn MsiVector>> {
        let vector = Arc::new(FakeVector {
            route: Mutex::new(None),
            eventfd: EventFd::new(EFD_NONBLOCK)?,
        });
        self.vectors.lock().unwrap().push(vector.clone());
        Ok(Box::new(Handle(vector)))
    }

    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let before = self
            .doorbells
            .lock()
            .unwrap()
            .insert(address, doorbell.try_clone()?);
        assert!(before.is_none(), "two doorbells at {address:#x}");
        Ok(())
    }

    fn detach_doorbell(&self, address: u64, _doorbell: &EventFd) -> io::Result<()> {
        let before = self.doorbells.lock().unwrap().remove(&address);
        assert!(before.is_some(), "no doorbell at {address:#x}");
        Ok(())
    }
}

/// A function that remembers the last write behind a BAR and reads as the offset's low byte.
pub struct FakeFunction {
    pub config: ConfigSpace,
    pub written: Option<(usize, u64, Vec<u8>)>,
}

impl PciDevice for FakeFunction {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]) {
        self.written = Some((bar, offset, data.to_vec()));
    }

    fn reset(&mut self) {
        self.config.reset();
    }
}
