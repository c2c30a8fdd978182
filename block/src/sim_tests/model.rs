//! What a disk may hold: every write that was ever sent to a sector, and when.

/// Bytes of a sector, the unit that a write fills with its number.
pub const SECTOR: u64 = 512;

/// One write to one sector. Number 0 is the zeros that were there first.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// Tells writes of the same content apart.
    id: u64,
    /// What the sector is filled with.
    number: u64,
    started: u64,
    /// Logical time at which the guest was told; `u64::MAX` while it was not.
    completed: u64,
    /// Whether it certainly replaces what was there (a discard need not).
    certain: bool,
}

/// The history of a disk's sectors, on a clock that ticks with every event.
pub struct Model {
    clock: u64,
    sectors: Vec<Vec<Write>>,
    next: u64,
}

/// What a read may find.
pub struct Before {
    offset: u64,
    histories: Vec<Vec<Write>>,
}

/// A write that has been sent.
#[derive(Clone, Copy)]
pub struct Sent {
    id: u64,
    pub number: u64,
    sector: u64,
    count: u64,
}

impl Model {
    pub fn new(size: u64) -> Self {
        let first = Write {
            id: 0,
            number: 0,
            started: 0,
            completed: 0,
            certain: true,
        };
        let count = usize::try_from(size / SECTOR).unwrap();
        Self {
            clock: 1,
            sectors: vec![vec![first]; count],
            next: 1,
        }
    }

    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write of a new number to the range, in bytes.
    pub fn write(&mut self, offset: u64, len: u64) -> Sent {
        self.send(true, offset, len, true)
    }

    /// A write of zeros.
    pub fn zero(&mut self, offset: u64, len: u64) -> Sent {
        self.send(false, offset, len, true)
    }

    /// A discard: zeros, or what was there.
    pub fn discard(&mut self, offset: u64, len: u64) -> Sent {
        self.send(false, offset, len, false)
    }

    fn send(&mut self, filled: bool, offset: u64, len: u64, certain: bool) -> Sent {
        let id = self.next;
        self.next += 1;
        let number = if filled { id } else { 0 };
        let sent = Sent {
            id,
            number,
            sector: offset / SECTOR,
            count: len / SECTOR,
        };
        let started = self.now();
        for history in self.touched(sent) {
            history.push(Write {
                id,
                number,
                started,
                completed: u64::MAX,
                certain,
            });
        }
        sent
    }

    /// The guest has been told that the write is done.
    pub fn complete(&mut self, sent: Sent) {
        let now = self.now();
        for history in self.touched(sent) {
            let write = history
                .iter_mut()
                .find(|write| write.id == sent.id)
                .expect("a write without an end is not forgotten");
            write.completed = now;
        }
    }

    /// What was acknowledged before `flush_started` is durable: older contents are impossible now.
    pub fn flushed(&mut self, flush_started: u64) {
        for history in &mut self.sectors {
            forget_replaced(history, flush_started);
        }
    }

    /// After a crash each content that was possible is one that may have stayed.
    pub fn crashed(&mut self) {
        let now = self.now();
        for write in self.sectors.iter_mut().flatten() {
            *write = Write {
                started: now,
                completed: now,
                certain: false,
                ..*write
            };
        }
    }

    /// What was found after a crash is what the disk holds from now on.
    pub fn found(&mut self, bytes: &[u8]) {
        let now = self.now();
        for (history, sector) in self.sectors.iter_mut().zip(bytes.chunks(512)) {
            let number = number_in(sector);
            history.retain(|write| write.number == number);
            history.truncate(1);
            history[0] = Write {
                started: now,
                completed: now,
                certain: true,
                ..history[0]
            };
        }
    }

    /// What a read of the range that starts now may find, besides what is written meanwhile.
    pub fn before_read(&mut self, offset: u64, len: u64) -> Before {
        let now = self.now();
        let (first, count) = (index(offset / SECTOR), index(len / SECTOR));
        let mut before = self.sectors[first..first + count].to_vec();
        before
            .iter_mut()
            .for_each(|history| forget_replaced(history, now));
        Before {
            offset,
            histories: before,
        }
    }

    /// Checks what a read has found.
    pub fn check(&self, before: &Before, bytes: &[u8]) {
        let first = index(before.offset / SECTOR);
        for (i, (sector, before)) in bytes.chunks(512).zip(&before.histories).enumerate() {
            let number = number_in(sector);
            assert!(
                sector.chunks(8).all(|part| part == &sector[..8]),
                "sector {i} is torn"
            );
            let mut possible = before.iter().chain(&self.sectors[first + i]);
            assert!(
                possible.any(|write| write.number == number),
                "sector {} holds write {number}; possible: {before:?}",
                first + i
            );
        }
    }

    fn touched(&mut self, sent: Sent) -> &mut [Vec<Write>] {
        let start = index(sent.sector);
        &mut self.sectors[start..start + index(sent.count)]
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn number_in(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// Drops the writes after which another one was both sent and acknowledged before `time`.
fn forget_replaced(history: &mut Vec<Write>, time: u64) {
    let all = history.clone();
    history.retain(|write| {
        !all.iter()
            .any(|later| later.certain && later.completed < time && later.started > write.completed)
    });
}

/// What a write of `number` fills `len` bytes with.
pub fn pattern(number: u64, len: u64) -> Vec<u8> {
    number
        .to_le_bytes()
        .repeat(usize::try_from(len / 8).unwrap())
}
