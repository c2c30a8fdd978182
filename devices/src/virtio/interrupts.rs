//! Interrupts of a virtio device: MSI-X where the driver has enabled it, else INTx with the ISR
//! status register (virtio 1.2, 4.1.4.5 and 4.1.5.1).
//!
//! Both halves come here, so the state sits behind a mutex that is held for a few loads and at
//! most one eventfd write.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    host::{IrqLine, PciHost},
    pci::msix::MsixTable,
};

/// The vector number that means "none" (4.1.5.1.1).
pub const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The interrupts of one device.
pub struct Interrupts(Mutex<Inner>);

struct Inner {
    /// A driver is there: between a reset and the next DRIVER_OK nothing is signalled.
    live: bool,
    msix: MsixTable,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    line: Arc<dyn IrqLine>,
    line_is_high: bool,
    intx_disabled: bool,
}

impl Inner {
    /// Drives the pin as the ISR register and the function's switches say.
    fn update_line(&mut self) {
        let high = self.isr != 0 && !self.msix.enabled() && !self.intx_disabled;
        if high != self.line_is_high {
            self.line_is_high = high;
            self.line.set(high);
        }
    }

    /// `vector` if the table has it: the driver sees it by what it reads back (4.1.5.1.2).
    fn known(&self, vector: u16) -> u16 {
        if vector < self.msix.len() {
            vector
        } else {
            NO_VECTOR
        }
    }
}

impl Interrupts {
    /// Interrupts of a device with `queues` queues: a vector for each, and one for configuration.
    pub fn new(host: &dyn PciHost, line: Arc<dyn IrqLine>, queues: u16) -> io::Result<Self> {
        Ok(Self(Mutex::new(Inner {
            live: false,
            msix: MsixTable::new(host, queues + 1)?,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; usize::from(queues)],
            isr: 0,
            line,
            line_is_high: false,
            intx_disabled: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue `index` has used buffers.
    pub fn signal_queue(&self, index: u16) {
        let mut inner = self.lock();
        if !inner.live {
            return;
        }
        if inner.msix.enabled() {
            let vector = inner.queue_vectors.get(usize::from(index)).copied();
            inner.msix.signal(vector.unwrap_or(NO_VECTOR));
        } else {
            inner.isr |= ISR_QUEUE;
            inner.update_line();
        }
    }

    /// Configuration or the "needs reset" bit has changed.
    pub fn signal_config(&self) {
        let mut inner = self.lock();
        if !inner.live {
            return;
        }
        inner.isr |= ISR_CONFIG;
        if inner.msix.enabled() {
            let vector = inner.config_vector;
            inner.msix.signal(vector);
        } else {
            inner.update_line();
        }
    }

    /// The driver reads the ISR status register, which clears it and lowers the pin.
    pub fn take_isr(&self) -> u8 {
        let mut inner = self.lock();
        let isr = std::mem::take(&mut inner.isr);
        inner.update_line();
        isr
    }

    /// Whether the function wants its pin high, for the PCI status register.
    pub fn intx_pending(&self) -> bool {
        let inner = self.lock();
        inner.isr != 0 && !inner.msix.enabled()
    }

    /// Follows the command register's INTx disable bit and MSI-X message control.
    pub fn set_controls(&self, intx_disabled: bool, msix_control: u16) {
        let mut inner = self.lock();
        inner.intx_disabled = intx_disabled;
        inner.msix.set_control(msix_control);
        inner.update_line();
    }

    /// The vector for configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.lock().config_vector
    }

    /// Sets the vector for configuration changes.
    pub fn set_config_vector(&self, vector: u16) {
        let mut inner = self.lock();
        inner.config_vector = inner.known(vector);
    }

    /// The vector of queue `index`.
    pub fn queue_vector(&self, index: u16) -> u16 {
        let vector = self.lock().queue_vectors.get(usize::from(index)).copied();
        vector.unwrap_or(NO_VECTOR)
    }

    /// Sets the vector of queue `index`.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        let mut inner = self.lock();
        let vector = inner.known(vector);
        if let Some(slot) = inner.queue_vectors.get_mut(usize::from(index)) {
            *slot = vector;
        }
    }

    /// The driver is ready to be signalled.
    pub fn start(&self) {
        self.lock().live = true;
    }

    /// What a reset of the virtio device undoes: vectors and ISR, not MSI-X itself. What the worker
    /// still completes is not signalled.
    pub fn reset_device(&self) {
        let mut inner = self.lock();
        inner.live = false;
        inner.config_vector = NO_VECTOR;
        inner.queue_vectors.fill(NO_VECTOR);
        inner.isr = 0;
        inner.update_line();
    }

    /// What a reset of the bus undoes: everything.
    pub fn reset_function(&self) {
        self.reset_device();
        let mut inner = self.lock();
        inner.msix.reset();
        inner.intx_disabled = false;
        inner.update_line();
    }

    /// Looks into the MSI-X table.
    pub fn with_msix<T>(&self, look: impl FnOnce(&mut MsixTable) -> T) -> T {
        look(&mut self.lock().msix)
    }
}
