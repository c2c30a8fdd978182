//! A 16550A whose line is the host's standard output, a file or a socket.
//!
//! The registers are answered on the vCPU threads ([`SerialPort`]); what people type is read on the
//! device thread ([`SerialInput`]), never more than the receive FIFO has room for, so that pasted
//! text waits in the host's buffers and is not lost.

use std::{
    io::{self, Read, Write},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_superio::{
    Serial, Trigger,
    serial::{Error as UartError, SerialEvents},
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{read_bytes, write_bytes};
use crate::{bus::BusDevice, host::IrqLine};

/// Where the guest's output goes to.
pub type Output = Box<dyn Write + Send>;

/// The register that says why there is an interrupt.
const INTERRUPT_IDENTIFICATION: u8 = 2;
/// In it: there is none.
const NO_INTERRUPT: u8 = 1 << 0;
/// In it: there is something to be read.
const RECEIVED_DATA: u8 = 1 << 2;
/// In the register that enables interrupts: those for [`RECEIVED_DATA`].
const RECEIVED_DATA_ENABLED: u8 = 1 << 0;

/// The interrupt of the UART as an edge.
struct Edge(Arc<dyn IrqLine>);

impl Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse();
        Ok(())
    }
}

/// Tells the input half that the guest has emptied the receive FIFO.
struct FifoEvents {
    room: Arc<EventFd>,
}

impl SerialEvents for FifoEvents {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // Fails only when the counter is full, and then a wake-up is already due.
        let _ = self.room.write(1);
    }
}

/// The port as the guest sees it: [`SerialPort::LEN`] registers.
pub struct SerialPort {
    uart: Serial<Edge, FifoEvents, Output>,
    room: Arc<EventFd>,
    output_failed: bool,
}

impl SerialPort {
    /// First port of COM1.
    pub const COM1: u64 = 0x3f8;
    /// Interrupt of COM1.
    pub const COM1_IRQ: u32 = 4;
    /// First port of COM2.
    pub const COM2: u64 = 0x2f8;
    /// Interrupt of COM2.
    pub const COM2_IRQ: u32 = 3;
    /// Number of ports.
    pub const LEN: u64 = 8;

    /// A port that raises `irq` and sends what the guest prints to `output`.
    ///
    /// # Errors
    /// If the host has no eventfd left.
    pub fn new(irq: Arc<dyn IrqLine>, output: Output) -> io::Result<Self> {
        let room = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let events = FifoEvents { room: room.clone() };
        Ok(Self {
            uart: Serial::with_events(Edge(irq), events, output),
            room,
            output_failed: false,
        })
    }

    /// Back to the state after power-on: no interrupts enabled, nothing received.
    pub fn reset(&mut self) {
        const DATA: u8 = 0;
        const INTERRUPT_ENABLE: u8 = 1;
        const LINE_CONTROL: u8 = 3;
        const MODEM_CONTROL: u8 = 4;
        const EIGHT_BITS: u8 = 3;
        const OUT2: u8 = 1 << 3;
        self.set_register(LINE_CONTROL, EIGHT_BITS);
        self.set_register(INTERRUPT_ENABLE, 0);
        self.set_register(MODEM_CONTROL, OUT2);
        self.uart.read(INTERRUPT_IDENTIFICATION);
        for _ in 0..self.uart.state().in_buffer.len() {
            self.uart.read(DATA);
        }
    }

    /// Bytes that can be received now.
    pub fn free(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Receives `bytes`, at most [`SerialPort::free`] of them. In loopback mode the line is cut off
    /// and they are lost.
    pub fn receive(&mut self, bytes: &[u8]) {
        if let Err(error) = self.uart.enqueue_raw_bytes(bytes) {
            tracing::warn!(%error, "serial input lost");
        }
    }

    fn register(&mut self, register: u8) -> u8 {
        let value = self.uart.read(register);
        if register == INTERRUPT_IDENTIFICATION && value & NO_INTERRUPT != 0 && self.has_input() {
            return value & !NO_INTERRUPT | RECEIVED_DATA;
        }
        value
    }

    /// Whether bytes lie in the FIFO that the guest wants to be interrupted for. The UART forgets
    /// that when the guest has read the first of them. A driver that stops in between and asks
    /// whether there is more would leave the rest, and for a full FIFO there is no next interrupt.
    fn has_input(&self) -> bool {
        let state = self.uart.state();
        !state.in_buffer.is_empty() && state.interrupt_enable & RECEIVED_DATA_ENABLED != 0
    }

    fn set_register(&mut self, register: u8, value: u8) {
        match self.uart.write(register, value) {
            Ok(()) => self.output_failed = false,
            // Once, or a guest that prints a lot would fill the log with it.
            Err(UartError::IOError(error)) if !self.output_failed => {
                self.output_failed = true;
                tracing::warn!(%error, "could not write the guest's serial output");
            }
            Err(_) => {}
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |register| match u8::try_from(register) {
            Ok(register) => self.register(register),
            Err(_) => 0xff,
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |register, value| {
            if let Ok(register) = u8::try_from(register) {
                self.set_register(register, value);
            }
        });
    }
}

/// Feeds the port from `source` on the device thread.
pub struct SerialInput<R> {
    port: Arc<Mutex<SerialPort>>,
    room: Arc<EventFd>,
    source: R,
    watching: bool,
}

/// Marks the events of a [`SerialInput`].
const SOURCE: u32 = 0;
const ROOM: u32 = 1;
/// Bytes read from the source at once.
const CHUNK: usize = 64;

impl<R: Read + AsRawFd> SerialInput<R> {
    /// The input half of `port`, with bytes from `source`.
    pub fn new(port: Arc<Mutex<SerialPort>>, source: R) -> Self {
        let room = lock(&port).room.clone();
        Self {
            port,
            room,
            source,
            watching: false,
        }
    }

    fn watch(&mut self, ops: &mut EventOps, on: bool) {
        if self.watching == on {
            return;
        }
        let events = Events::with_data(&self.source, SOURCE, EventSet::IN);
        let changed = if on {
            ops.add(events)
        } else {
            ops.remove(events)
        };
        match changed {
            Ok(()) => self.watching = on,
            // Files and /dev/null cannot be waited for; a console does not need them as input.
            Err(error) => tracing::debug!(?error, "serial input is not watched"),
        }
    }

    fn feed(&mut self, ops: &mut EventOps) {
        let free = lock(&self.port).free();
        if free == 0 {
            // The guest's reading wakes us up again.
            self.watch(ops, false);
            return;
        }
        let mut chunk = [0; CHUNK];
        let limit = free.min(CHUNK);
        match self.source.read(&mut chunk[..limit]) {
            Ok(0) => self.close(ops),
            Ok(count) => lock(&self.port).receive(&chunk[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "could not read serial input");
                self.close(ops);
            }
        }
    }

    /// The source has ended; nothing is watched any more.
    fn close(&mut self, ops: &mut EventOps) {
        self.watch(ops, false);
        let room = Events::with_data(self.room.as_ref(), ROOM, EventSet::IN);
        if let Err(error) = ops.remove(room) {
            tracing::debug!(?error, "serial input was not watched");
        }
    }
}

impl<R: Read + AsRawFd> MutEventSubscriber for SerialInput<R> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            ROOM => {
                let _ = self.room.read();
                self.watch(ops, true);
            }
            _ => self.feed(ops),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let room = Events::with_data(self.room.as_ref(), ROOM, EventSet::IN);
        if let Err(error) = ops.add(room) {
            tracing::warn!(?error, "serial input does not work");
        }
        self.watch(ops, true);
    }
}

fn lock(port: &Mutex<SerialPort>) -> MutexGuard<'_, SerialPort> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
