//! The keyboard controller, with neither keyboard nor mouse behind it.
//!
//! Guests use it to reset the machine. The rest answers what a driver asks first, so that a probe
//! ends at once and finds a working controller without devices. ACPI says that there is none (see
//! [`crate::acpi`]), so Linux does not even probe.

use std::collections::VecDeque;

use super::{Signal, read_bytes, write_bytes};
use crate::bus::BusDevice;

mod command {
    pub const READ_CONTROL: u8 = 0x20;
    pub const WRITE_CONTROL: u8 = 0x60;
    pub const DISABLE_AUX: u8 = 0xa7;
    pub const ENABLE_AUX: u8 = 0xa8;
    pub const TEST_AUX: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const TEST_KEYBOARD: u8 = 0xab;
    pub const DISABLE_KEYBOARD: u8 = 0xad;
    pub const ENABLE_KEYBOARD: u8 = 0xae;
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub const LOOP_KEYBOARD: u8 = 0xd2;
    pub const LOOP_AUX: u8 = 0xd3;
    pub const WRITE_AUX: u8 = 0xd4;
    /// Pulses low the lines of the output port whose bit in the low nibble is 0; bit 0 is the CPU's
    /// reset.
    pub const PULSE: std::ops::RangeInclusive<u8> = 0xf0..=0xff;
}

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUX_DATA: u8 = 1 << 5;
const CONTROL_SYSTEM: u8 = 1 << 2;
const CONTROL_KEYBOARD_DISABLED: u8 = 1 << 4;
const CONTROL_AUX_DISABLED: u8 = 1 << 5;
/// Output port: reset line not asserted, A20 open.
const OUTPUT_PORT: u8 = 0b11;
const NOT_RESET: u8 = 1 << 0;
/// Answer to a port test: the clock line is stuck low, as where nothing is plugged in.
const TEST_CLOCK_LOW: u8 = 1;
const SELF_TEST_PASSED: u8 = 0x55;
/// Answers that wait for the guest; more are dropped.
const QUEUE_LIMIT: usize = 16;

/// The controller. Its range is [`I8042::LEN`] ports from [`I8042::DATA`] on; those between data
/// and command are not its own (0x61 belongs to the timer, which KVM provides).
pub struct I8042 {
    control: u8,
    /// The command whose parameter the next data byte is.
    awaiting: Option<u8>,
    last_was_command: bool,
    /// Bytes for the guest, and whether they come from the second port.
    output: VecDeque<(u8, bool)>,
    /// What an empty output buffer still shows.
    last_data: u8,
    reset: Signal,
}

impl I8042 {
    /// Number of ports from [`I8042::DATA`] to [`I8042::COMMAND`].
    pub const LEN: u64 = 5;
    /// Data port.
    pub const DATA: u64 = 0x60;
    /// Status (read) and command (write) port.
    pub const COMMAND: u64 = 0x64;
    /// The command that resets the machine: pulses the CPU's reset line.
    pub const RESET: u8 = 0xfe;

    /// A controller that calls `reset` when the guest asks for one.
    pub fn new(reset: Signal) -> Self {
        Self {
            control: CONTROL_SYSTEM | CONTROL_KEYBOARD_DISABLED | CONTROL_AUX_DISABLED,
            awaiting: None,
            last_was_command: false,
            output: VecDeque::new(),
            last_data: 0,
            reset,
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.reset.clone());
    }

    /// Reads [`I8042::DATA`] or [`I8042::COMMAND`].
    pub(crate) fn read_port(&mut self, port: u64) -> u8 {
        match port {
            Self::DATA => {
                if let Some((byte, _)) = self.output.pop_front() {
                    self.last_data = byte;
                }
                self.last_data
            }
            Self::COMMAND => self.status(),
            _ => 0xff,
        }
    }

    /// Writes [`I8042::DATA`] or [`I8042::COMMAND`].
    pub(crate) fn write_port(&mut self, port: u64, value: u8) {
        match port {
            Self::DATA => self.write_data(value),
            Self::COMMAND => self.write_command(value),
            _ => {}
        }
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED;
        if self.control & CONTROL_SYSTEM != 0 {
            status |= STATUS_SYSTEM;
        }
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        if let Some(&(_, aux)) = self.output.front() {
            status |= STATUS_OUTPUT_FULL;
            if aux {
                status |= STATUS_AUX_DATA;
            }
        }
        status
    }

    fn write_command(&mut self, command: u8) {
        self.last_was_command = true;
        self.awaiting = None;
        match command {
            command::READ_CONTROL => self.answer(self.control, false),
            command::DISABLE_AUX => self.control |= CONTROL_AUX_DISABLED,
            command::ENABLE_AUX => self.control &= !CONTROL_AUX_DISABLED,
            command::DISABLE_KEYBOARD => self.control |= CONTROL_KEYBOARD_DISABLED,
            command::ENABLE_KEYBOARD => self.control &= !CONTROL_KEYBOARD_DISABLED,
            command::TEST_AUX | command::TEST_KEYBOARD => self.answer(TEST_CLOCK_LOW, false),
            command::SELF_TEST => {
                self.output.clear();
                self.control |= CONTROL_SYSTEM;
                self.answer(SELF_TEST_PASSED, false);
            }
            command::READ_OUTPUT_PORT => self.answer(OUTPUT_PORT, false),
            command::WRITE_CONTROL
            | command::WRITE_OUTPUT_PORT
            | command::LOOP_KEYBOARD
            | command::LOOP_AUX
            | command::WRITE_AUX => self.awaiting = Some(command),
            pulse if command::PULSE.contains(&pulse) && pulse & NOT_RESET == 0 => (self.reset)(),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.last_was_command = false;
        match self.awaiting.take() {
            Some(command::WRITE_CONTROL) => self.control = value,
            Some(command::WRITE_OUTPUT_PORT) if value & NOT_RESET == 0 => (self.reset)(),
            Some(command::LOOP_KEYBOARD) => self.answer(value, false),
            Some(command::LOOP_AUX) => self.answer(value, true),
            // Bytes for a device that is not there.
            _ => {}
        }
    }

    fn answer(&mut self, byte: u8, aux: bool) {
        if self.output.len() < QUEUE_LIMIT {
            self.output.push_back((byte, aux));
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |port| self.read_port(Self::DATA + port));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |port, value| {
            self.write_port(Self::DATA + port, value)
        });
    }
}

#[cfg(test)]
mod tests;
