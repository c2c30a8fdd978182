//! The clock and its 128 bytes of CMOS memory (Motorola MC146818), ports 0x70 and 0x71.
//!
//! The time is the host's, in UTC, plus whatever the guest has set it off by. It goes on while the
//! guest is stopped.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Signal, read_bytes, write_bytes};
use crate::{bus::BusDevice, host::IrqLine};

mod calendar;
mod interrupts;
mod timer;

use calendar::DateTime;
use interrupts::{AlarmTime, Event, Interrupts, Settings};
use timer::Timer;

pub use timer::RtcTimer;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// Register in which a PC's BIOS finds why the machine starts.
const SHUTDOWN_STATUS: u8 = 0x0f;
/// There: the guest that had suspended to memory goes on. QEMU's and SeaBIOS's word for it.
const RESUMES: u8 = 0xfe;
/// Register of the century, as the FADT says, too.
pub(crate) const CENTURY: u8 = 0x32;

/// 32,768 Hz time base, 1,024 Hz periodic rate.
const A_DEFAULT: u8 = 0x26;
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Set: updates are stopped and the guest writes the time.
const B_SET: u8 = 1 << 7;
const B_UPDATE_INTERRUPT: u8 = Event::UPDATED.bits();
const B_SQUARE_WAVE: u8 = 1 << 3;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const D_VALID: u8 = 1 << 7;
const PM: u8 = 1 << 7;
/// Both bits set in a field of the alarm: any value will do.
const ANY: u8 = 0b1100_0000;

/// How long before a new second begins the update shows (data sheet: 244 us plus the update
/// itself).
const UPDATE_WARNING: Duration = Duration::from_micros(244);

/// Time since 1970-01-01T00:00:00Z.
type Clock = Box<dyn Fn() -> Duration + Send>;

/// How much memory the machine has, for the CMOS fields that say it.
#[derive(Debug, Clone, Copy)]
pub struct MemorySize {
    /// Bytes from address 0 up to the PCI hole.
    pub below_4g: u64,
    /// Bytes from 4 GiB on.
    pub above_4g: u64,
}

/// The clock. Its range is [`Rtc::LEN`] ports from [`Rtc::BASE`] on.
pub struct Rtc {
    clock: Clock,
    line: Arc<dyn IrqLine>,
    /// Told when the alarm interrupts.
    alarm: Signal,
    timer: Timer,
    interrupts: Interrupts,
    /// Seconds that the guest's time is ahead of the host's.
    ahead: i64,
    /// The time as last shown, while updates are stopped.
    stopped: Option<DateTime>,
    index: u8,
    memory: [u8; 128],
}

impl Rtc {
    /// Index port; the data port follows.
    pub const BASE: u64 = 0x70;
    /// Number of ports.
    pub const LEN: u64 = 2;
    /// Its interrupt.
    pub const IRQ: u32 = 8;

    /// A clock that runs with the host's, and says that the machine has `size` memory. It
    /// interrupts by `line`, and calls `alarm` when the alarm does so. [`RtcTimer`] lets it.
    ///
    /// # Errors
    /// The host has no timer left.
    pub fn new(size: MemorySize, line: Arc<dyn IrqLine>, alarm: Signal) -> io::Result<Self> {
        let clock = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
        };
        Self::with_clock(size, line, alarm, Box::new(clock))
    }

    fn with_clock(
        size: MemorySize,
        line: Arc<dyn IrqLine>,
        alarm: Signal,
        clock: Clock,
    ) -> io::Result<Self> {
        let mut memory = [0; 128];
        memory[usize::from(STATUS_A)] = A_DEFAULT;
        memory[usize::from(STATUS_B)] = B_24_HOURS;
        memory[usize::from(STATUS_D)] = D_VALID;
        describe_memory(&mut memory, size);
        Ok(Self {
            interrupts: Interrupts::new(clock()),
            clock,
            line,
            alarm,
            timer: Timer::new()?,
            ahead: 0,
            stopped: None,
            index: 0,
            memory,
        })
    }

    /// A machine reset: the clock goes on and the memory is kept, as the battery would have it.
    /// Nothing interrupts any more.
    pub fn reset(&mut self) {
        self.index = 0;
        self.interrupts = Interrupts::new((self.clock)());
        self.memory[usize::from(STATUS_B)] &= !(Event::all().bits() | B_SQUARE_WAVE);
        self.update_line();
    }

    /// What the guest has left for a BIOS in the register that tells it why the machine starts: 0
    /// for a start from the beginning.
    pub fn shutdown_status(&self) -> u8 {
        self.memory[usize::from(SHUTDOWN_STATUS)]
    }

    /// Tells firmware that the guest that had suspended to memory is to go on.
    pub fn announce_resume(&mut self) {
        self.memory[usize::from(SHUTDOWN_STATUS)] = RESUMES;
    }

    /// The time that the timer was set to has come.
    fn wake(&mut self) {
        self.catch_up();
        self.update_line();
    }

    /// Finds out what has happened under the settings so far, before they change or are asked for.
    fn catch_up(&mut self) {
        let settings = self.settings();
        let new = self.interrupts.catch_up((self.clock)(), &settings);
        if (new & settings.enabled).contains(Event::ALARM) {
            (self.alarm)();
        }
    }

    /// Sets the line, and the timer to when it changes next.
    fn update_line(&mut self) {
        let settings = self.settings();
        self.line.set(self.interrupts.line(settings.enabled));
        self.timer.set(self.interrupts.next(&settings));
    }

    fn settings(&self) -> Settings {
        let field = |register: u8| {
            let value = self.memory[usize::from(register)];
            (value & ANY != ANY).then_some(value)
        };
        Settings {
            a: self.memory[usize::from(STATUS_A)],
            stopped: self.stopped.is_some(),
            enabled: Event::from_bits_truncate(self.status_b()),
            alarm: AlarmTime {
                hour: field(HOURS_ALARM).map(|hour| self.decode_hour(hour)),
                minute: field(MINUTES_ALARM).map(|minute| self.decode(minute)),
                second: field(SECONDS_ALARM).map(|second| self.decode(second)),
            },
            ahead: self.ahead,
        }
    }

    /// The guest reads register C: what has happened, which it clears.
    fn read_events(&mut self) -> u8 {
        self.catch_up();
        let enabled = self.settings().enabled;
        let value = self.interrupts.read(enabled);
        self.update_line();
        value
    }

    fn seconds(&self) -> i64 {
        let seconds = i64::try_from((self.clock)().as_secs()).unwrap_or(0);
        seconds.saturating_add(self.ahead)
    }

    fn now(&self) -> DateTime {
        self.stopped
            .unwrap_or_else(|| DateTime::from_unix(self.seconds()))
    }

    fn status_b(&self) -> u8 {
        self.memory[usize::from(STATUS_B)]
    }

    fn updating(&self) -> bool {
        let into = Duration::from_nanos((self.clock)().subsec_nanos().into());
        self.stopped.is_none() && into + UPDATE_WARNING >= Duration::from_secs(1)
    }

    fn read_register(&mut self, register: u8) -> u8 {
        let now = self.now();
        let value = match register {
            STATUS_C => return self.read_events(),
            SECONDS => now.second,
            MINUTES => now.minute,
            HOURS => return self.encode_hour(now.hour),
            WEEKDAY => now.weekday(),
            DAY => now.day,
            MONTH => now.month,
            YEAR => now.year_of_century(),
            CENTURY => now.century(),
            STATUS_A if self.updating() => {
                return self.memory[usize::from(STATUS_A)] | A_UPDATE_IN_PROGRESS;
            }
            _ => return self.memory[usize::from(register)],
        };
        self.encode(value)
    }

    fn write_register(&mut self, register: u8, value: u8) {
        self.catch_up();
        self.change_register(register, value);
        self.update_line();
    }

    fn change_register(&mut self, register: u8, value: u8) {
        match register {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.set_field(register, value);
            }
            STATUS_A => self.memory[usize::from(STATUS_A)] = value & !A_UPDATE_IN_PROGRESS,
            STATUS_B => self.set_status_b(value),
            STATUS_C | STATUS_D => {}
            _ => self.memory[usize::from(register)] = value,
        }
    }

    fn set_status_b(&mut self, mut value: u8) {
        if value & B_SET != 0 {
            // There is no update whose end could interrupt.
            value &= !B_UPDATE_INTERRUPT;
            self.stopped = Some(self.now());
        } else if let Some(set) = self.stopped.take() {
            self.run_from(set);
        }
        self.memory[usize::from(STATUS_B)] = value;
    }

    /// Writes one field of the time. Values that are no time of day or date are taken as the chip
    /// takes them, and make sense again once all fields are written.
    fn set_field(&mut self, register: u8, value: u8) {
        let mut time = self.now();
        let plain = self.decode(value);
        match register {
            SECONDS => time.second = plain,
            MINUTES => time.minute = plain,
            HOURS => time.hour = self.decode_hour(value),
            DAY => time.day = plain,
            MONTH => time.month = plain,
            YEAR => time.year = time.year / 100 * 100 + u16::from(plain % 100),
            CENTURY => time.year = u16::from(plain) * 100 + time.year % 100,
            // The weekday follows from the date.
            _ => {}
        }
        match &mut self.stopped {
            Some(stopped) => *stopped = time,
            None => self.run_from(time),
        }
    }

    /// Lets the clock run on from `time`.
    fn run_from(&mut self, time: DateTime) {
        let host = self.seconds().saturating_sub(self.ahead);
        self.ahead = time.to_unix() - host;
    }

    fn encode(&self, value: u8) -> u8 {
        match self.status_b() & B_BINARY {
            0 => value / 10 % 10 * 16 + value % 10,
            _ => value,
        }
    }

    fn decode(&self, value: u8) -> u8 {
        match self.status_b() & B_BINARY {
            0 => (value >> 4).min(9) * 10 + (value & 0xf).min(9),
            _ => value,
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.status_b() & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.status_b() & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |port| match port {
            // The index cannot be read back.
            1 => self.read_register(self.index),
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |port, value| match port {
            // Bit 7 masks the NMI, which nothing raises.
            0 => self.index = value & 0x7f,
            _ => self.write_register(self.index, value),
        });
    }
}

/// Fills the fields by which old software learns how much memory there is.
fn describe_memory(memory: &mut [u8; 128], size: MemorySize) {
    const BASE_KIB: u64 = 640;
    const MIB: u64 = 1 << 20;
    let mut field = |register: usize, units: u64, bytes: usize| {
        let limit = (1 << (8 * bytes)) - 1;
        let value = units.min(limit).to_le_bytes();
        memory[register..register + bytes].copy_from_slice(&value[..bytes]);
    };
    let extended_kib = size.below_4g.saturating_sub(MIB) / 1024;
    field(0x15, BASE_KIB, 2);
    field(0x17, extended_kib, 2);
    field(0x30, extended_kib, 2);
    field(0x34, size.below_4g.saturating_sub(16 * MIB) >> 16, 2);
    field(0x5b, size.above_4g >> 16, 3);
}

#[cfg(test)]
mod tests;
