//! The PM1 event and control registers and the PM timer (ACPI 6.5, 4.8.3).

use std::{sync::Arc, time::Instant};

use bitflags::bitflags;
use strata_exec::mem::to_usize;

use super::read_image;
use crate::{bus::BusDevice, host::IrqLine, legacy::Signal};

bitflags! {
    /// Fixed events, as they lie in PM1_STS and PM1_EN.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Event: u16 {
        const TIMER = 1 << 0;
        const BUS_MASTER = 1 << 4;
        const GLOBAL = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const RTC = 1 << 10;
        const WAKE = 1 << 15;
        /// Events that PM1_EN can let through to the SCI.
        const ENABLES = Self::TIMER.bits() | Self::GLOBAL.bits() | Self::POWER_BUTTON.bits()
            | Self::SLEEP_BUTTON.bits() | Self::RTC.bits();
    }
}

/// ACPI mode: events raise the SCI. Always set.
const SCI_ENABLE: u16 = 1 << 0;
const BUS_MASTER_RELOAD: u16 = 1 << 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE: u16 = 0b111 << SLEEP_TYPE_SHIFT;
/// Write-only; reads as 0.
const SLEEP_ENABLE: u16 = 1 << 13;

/// What the DSDT's `\_S3` says to write into the sleep type field to suspend to memory.
pub(crate) const SLEEP_TYPE_S3: u8 = 1;

/// What the DSDT's `\_S5` says to write into the sleep type field to power off. SeaBIOS does not
/// read the DSDT: its APM functions, which boot loaders halt by, write 0, as the PIIX4 has it.
pub(crate) const SLEEP_TYPE_S5: u8 = 0;

/// Each of the states S0 to S5 as fw_cfg's file `etc/system-states` has it (QEMU's
/// `hw/isa/piix4.c`): bit 7 where it exists, and its sleep type.
pub fn sleep_states() -> [u8; 6] {
    const EXISTS: u8 = 1 << 7;
    [
        EXISTS,
        0,
        0,
        EXISTS | SLEEP_TYPE_S3,
        0,
        EXISTS | SLEEP_TYPE_S5,
    ]
}

const STATUS: u64 = 0;
const ENABLE: u64 = 2;
const CONTROL: u64 = 4;
const TIMER: u64 = 8;

/// Whom the registers tell what the guest wants.
pub struct PowerSignals {
    /// It enters S5.
    pub power_off: Signal,
    /// It enters S3: its processors stop, and its memory is kept.
    pub suspend: Signal,
    /// Something happens that is to wake it.
    pub wake_up: Signal,
}

/// The register block. Its range is [`PmBlock::LEN`] ports from [`PmBlock::BASE`] on.
pub struct PmBlock {
    status: Event,
    enable: Event,
    control: u16,
    /// The guest has entered S3.
    asleep: bool,
    sci: Arc<dyn IrqLine>,
    signals: PowerSignals,
    started: Instant,
}

impl PmBlock {
    /// First port: PM1a_EVT.
    pub const BASE: u64 = 0x600;
    /// Number of ports.
    pub const LEN: u64 = 12;
    /// PM1a_CNT.
    pub(crate) const PM1A_CONTROL: u64 = Self::BASE + CONTROL;
    /// PM_TMR.
    pub(crate) const PM_TIMER: u64 = Self::BASE + TIMER;
    /// Frequency of the PM timer.
    const TIMER_HZ: u128 = 3_579_545;

    /// Registers that raise `sci`.
    pub fn new(sci: Arc<dyn IrqLine>, signals: PowerSignals) -> Self {
        Self {
            status: Event::empty(),
            enable: Event::empty(),
            control: 0,
            asleep: false,
            sci,
            signals,
            started: Instant::now(),
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.status = Event::empty();
        self.enable = Event::empty();
        self.control = 0;
        self.asleep = false;
        self.update_sci();
    }

    /// The guest leaves S3. It finds what woke it, and has to ask for events again.
    pub fn wake_up(&mut self) {
        let events = self.status;
        self.reset();
        self.status = events | Event::WAKE;
    }

    /// Someone wants a guest that is in S3 to wake up: it learns that it was the power button.
    /// Whoever asks carries it out.
    pub fn ask_to_wake_up(&mut self) {
        self.status |= Event::POWER_BUTTON;
    }

    /// Whether the guest is in S3.
    pub fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Whether the guest is in S3 and something has happened that is to wake it.
    pub fn is_to_wake_up(&self) -> bool {
        self.asleep && self.status.intersects(self.enable)
    }

    /// Someone presses the power button: the guest learns of it as soon as it listens.
    pub fn press_power_button(&mut self) {
        self.status |= Event::POWER_BUTTON;
        self.happened();
    }

    /// The clock's alarm interrupts: a guest that sleeps wakes up, if it has asked for that.
    pub fn clock_alarm(&mut self) {
        self.status |= Event::RTC;
        self.happened();
    }

    /// Lets the guest know of an event, if it wants to.
    fn happened(&self) {
        self.update_sci();
        if self.is_to_wake_up() {
            (self.signals.wake_up)();
        }
    }

    fn update_sci(&self) {
        self.sci.set(self.status.intersects(self.enable));
    }

    fn timer(&self) -> u32 {
        let ticks = self.started.elapsed().as_nanos() * Self::TIMER_HZ / 1_000_000_000;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the timer wraps at 32 bits"
        )]
        {
            ticks as u32
        }
    }

    /// The block's bytes as they read now.
    fn image(&self) -> [u8; to_usize(Self::LEN)] {
        let mut image = [0; to_usize(Self::LEN)];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = to_usize(at);
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(STATUS, &self.status.bits().to_le_bytes());
        put(ENABLE, &self.enable.bits().to_le_bytes());
        put(CONTROL, &(self.control | SCI_ENABLE).to_le_bytes());
        put(TIMER, &self.timer().to_le_bytes());
        image
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & (BUS_MASTER_RELOAD | SLEEP_TYPE);
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        match u8::try_from((value & SLEEP_TYPE) >> SLEEP_TYPE_SHIFT) {
            Ok(SLEEP_TYPE_S5) => (self.signals.power_off)(),
            Ok(SLEEP_TYPE_S3) => self.suspend(),
            sleep_type => tracing::debug!(
                ?sleep_type,
                "the guest asks for a sleep state that does not exist"
            ),
        }
    }

    fn suspend(&mut self) {
        self.asleep = true;
        (self.signals.suspend)();
        // Since the guest looked at it last.
        if self.is_to_wake_up() {
            (self.signals.wake_up)();
        }
    }
}

impl BusDevice for PmBlock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Timer reads of several bytes must be of one point in time.
        read_image(&self.image(), offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Bytes that the access does not touch: nothing to clear in the status, the old value
        // elsewhere.
        let merge = |register: u64, old: u16| {
            let mut bytes = old.to_le_bytes();
            for (port, &byte) in (offset..).zip(data) {
                if let Some(slot) = port
                    .checked_sub(register)
                    .and_then(|i| bytes.get_mut(to_usize(i)))
                {
                    *slot = byte;
                }
            }
            u16::from_le_bytes(bytes)
        };
        let touches =
            |register: u64| offset < register + 2 && offset + data.len() as u64 > register;
        let clear = merge(STATUS, 0);
        let enable = merge(ENABLE, self.enable.bits());
        let control = touches(CONTROL).then(|| merge(CONTROL, self.control));
        self.status -= Event::from_bits_truncate(clear);
        self.enable = Event::from_bits_truncate(enable) & Event::ENABLES;
        self.update_sci();
        if let Some(control) = control {
            self.write_control(control);
        }
    }
}

#[cfg(test)]
mod tests;
