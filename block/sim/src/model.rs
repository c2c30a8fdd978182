//! What a disk may hold: every write that was ever sent to a sector, and when.

use std::rc::Rc;

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
    /// Logical time at which that was acknowledged; `u64::MAX` while it was not.
    completed: u64,
    /// Whether it certainly replaces what was there (a discard need not, nor one that failed).
    certain: bool,
}

/// The history of a disk's sectors, on a clock that ticks with every event.
pub struct Model {
    clock: u64,
    /// Of every sector that the disk has ever had: behind its end there are zeros.
    sectors: Vec<Vec<Write>>,
    /// Bytes that the disk may have after a crash.
    sizes: Vec<u64>,
    /// Fewest bytes that the disk has had.
    smallest: u64,
    next: u64,
    /// Every read under way holds it.
    reads: Rc<()>,
    /// Sectors and their writes that were replaced while reads were under way, which may have found
    /// them.
    replaced: Vec<(usize, Write)>,
}

/// What a read may find.
pub struct Before {
    time: u64,
    offset: u64,
    histories: Vec<Vec<Write>>,
    _read: Rc<()>,
}

/// A write that has been sent.
#[derive(Clone, Copy)]
pub struct Sent {
    pub id: u64,
    pub number: u64,
    started: u64,
    sector: u64,
    count: u64,
}

/// What a range holds after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A new number.
    Filled,
    /// Zeros.
    Zeros,
    /// Zeros, or what was there.
    Discarded,
}

impl Model {
    pub fn new(size: u64) -> Self {
        Self {
            clock: 1,
            sectors: vec![vec![zeros(0)]; index(size / SECTOR)],
            sizes: vec![size],
            smallest: size,
            next: 1,
            reads: Rc::default(),
            replaced: Vec::new(),
        }
    }

    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Notes a write to the range, in bytes.
    pub fn send(&mut self, kind: Kind, offset: u64, len: u64) -> Sent {
        let id = self.next;
        self.next += 1;
        let number = if kind == Kind::Filled { id } else { 0 };
        let sent = Sent {
            id,
            number,
            started: self.now(),
            sector: offset / SECTOR,
            count: len / SECTOR,
        };
        for history in self.touched(sent) {
            history.push(Write {
                id,
                number,
                started: sent.started,
                completed: u64::MAX,
                certain: kind != Kind::Discarded,
            });
        }
        sent
    }

    /// Acknowledged to the guest: the write is done.
    pub fn complete(&mut self, sent: Sent) {
        self.end(sent, |_| {});
    }

    /// Reported to the guest: the write failed: each sector holds what it would have
    /// written, or what was there.
    pub fn failed(&mut self, sent: Sent) {
        self.end(sent, |write| write.certain = false);
    }

    /// Reported to the guest: the disk ends before the write does: nothing was written.
    pub fn refused(&mut self, sent: Sent) {
        for history in self.touched(sent) {
            history.retain(|write| write.id != sent.id);
        }
    }

    fn end(&mut self, sent: Sent, change: impl Fn(&mut Write)) {
        let now = self.now();
        for history in self.touched(sent) {
            let write = history
                .iter_mut()
                .find(|write| write.id == sent.id)
                .expect("a write without an end is not forgotten");
            write.completed = now;
            change(write);
        }
    }

    /// The write is durable: what was there before it was sent is gone for good.
    pub fn durable(&mut self, sent: Sent) {
        let mut replaced = Vec::new();
        let first = index(sent.sector);
        for (n, history) in self.touched(sent).iter_mut().enumerate() {
            let gone = history.extract_if(.., |write| write.completed < sent.started);
            replaced.extend(gone.map(|write| (first + n, write)));
        }
        self.keep_for_reads(replaced);
    }

    /// These have been taken out of histories.
    fn keep_for_reads(&mut self, replaced: Vec<(usize, Write)>) {
        if Rc::strong_count(&self.reads) > 1 {
            self.replaced.extend(replaced);
        } else {
            self.replaced.clear();
        }
    }

    /// What was acknowledged before `flush_started` is durable: older contents are impossible now.
    /// That holds also after a flush that failed: one that succeeds later says that nothing is
    /// lost.
    pub fn flushed(&mut self, flush_started: u64) {
        let mut replaced = Vec::new();
        for (sector, history) in self.sectors.iter_mut().enumerate() {
            let gone = forget_replaced(history, flush_started);
            replaced.extend(gone.map(|write| (sector, write)));
        }
        self.keep_for_reads(replaced);
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

    /// What was found is what the disk holds from now on.
    pub fn found(&mut self, bytes: &[u8]) {
        let now = self.now();
        for (history, sector) in self.sectors.iter_mut().zip(bytes.chunks(512)) {
            let number = number_in(sector);
            *history = vec![Write {
                number,
                ..zeros(now)
            }];
        }
    }

    /// Numbers writes from `first` on, so that those of another model do not look the same.
    pub fn number_from(&mut self, first: u64) {
        self.next = first;
    }

    /// The number of the next write.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// A new size was asked for: from now on the disk may have it.
    pub fn resizing(&mut self, size: u64) {
        self.sizes.push(size);
    }

    /// Fewest bytes that the disk has had since this was last asked.
    pub fn take_smallest(&mut self) -> u64 {
        std::mem::replace(&mut self.smallest, self.sizes[0])
    }

    /// The disk has `size` bytes, durably. What lay behind a smaller end is gone for good, and what
    /// is added is zeros.
    pub fn resized(&mut self, size: u64) {
        self.sizes = vec![size];
        self.end_at(size, true);
    }

    /// The disk has `size` bytes, but after a crash it may have another size that was asked for,
    /// and behind a smaller end what lay there.
    pub fn perhaps_resized(&mut self, size: u64) {
        // The present size comes first.
        self.sizes.insert(0, size);
        self.end_at(size, false);
    }

    /// Behind `size` there are zeros; for certain, or what lay there.
    fn end_at(&mut self, size: u64, certain: bool) {
        let now = self.now();
        self.smallest = self.smallest.min(size);
        let end = index(size / SECTOR);
        for history in self.sectors.iter_mut().skip(end) {
            if certain {
                // Those that wait will be refused, or the disk grows before.
                history.retain(|write| write.completed == u64::MAX);
            }
            history.push(Write {
                certain,
                ..zeros(now)
            });
        }
        let count = self.sectors.len().max(end);
        self.sectors.resize_with(count, || vec![zeros(now)]);
    }

    /// After a crash the disk has `size` bytes.
    pub fn found_size(&mut self, size: u64) {
        let possible = &self.sizes;
        assert!(possible.contains(&size), "{size} bytes, not {possible:?}");
        self.resized(size);
    }

    /// What a read of the range that starts now may find, besides what is written meanwhile.
    pub fn before_read(&mut self, offset: u64, len: u64) -> Before {
        let now = self.now();
        let (first, count) = (index(offset / SECTOR), index(len / SECTOR));
        let mut before = self.sectors[first..first + count].to_vec();
        before
            .iter_mut()
            .for_each(|history| drop(forget_replaced(history, now)));
        Before {
            time: now,
            offset,
            histories: before,
            _read: self.reads.clone(),
        }
    }

    /// Checks what a read has found.
    pub fn check(&self, before: &Before, bytes: &[u8]) {
        let first = index(before.offset / SECTOR);
        for (i, (sector, old)) in bytes.chunks(512).zip(&before.histories).enumerate() {
            let number = whole(first + i, sector);
            let meanwhile = self.sectors[first + i]
                .iter()
                .filter(|write| write.started > before.time);
            let replaced = self
                .replaced
                .iter()
                .filter(|(sector, write)| *sector == first + i && write.started > before.time)
                .map(|(_, write)| write);
            let possible = old.iter().chain(meanwhile).chain(replaced);
            assert!(
                possible.into_iter().any(|w| w.number == number),
                "sector {} holds write {number}; possible: {old:?}",
                first + i
            );
        }
    }

    fn touched(&mut self, sent: Sent) -> &mut [Vec<Write>] {
        let start = index(sent.sector);
        &mut self.sectors[start..start + index(sent.count)]
    }
}

/// Zeros that are there from `time` on.
fn zeros(time: u64) -> Write {
    Write {
        id: 0,
        number: 0,
        started: time,
        completed: time,
        certain: true,
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn number_in(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// The number that fills the sector.
fn whole(index: usize, sector: &[u8]) -> u64 {
    let numbers: Vec<_> = sector.chunks(8).map(number_in).collect();
    let torn = numbers.iter().position(|&number| number != numbers[0]);
    if let Some(torn) = torn {
        panic!(
            "sector {index} is torn: its first {} bytes are of write {}, then comes write {}; in \
             all {numbers:?}",
            torn * 8,
            numbers[0],
            numbers[torn]
        );
    }
    numbers[0]
}

/// Takes out the writes after which another one was both sent and acknowledged before `time`.
fn forget_replaced(history: &mut Vec<Write>, time: u64) -> std::vec::IntoIter<Write> {
    let replacing = |write: &&Write| write.certain && write.completed < time;
    let latest = history.iter().filter(replacing).map(|w| w.started).max();
    let latest = latest.unwrap_or(0);
    let gone: Vec<_> = history.extract_if(.., |w| w.completed < latest).collect();
    gone.into_iter()
}

/// What a write of `number` fills `len` bytes with.
pub fn pattern(number: u64, len: u64) -> Vec<u8> {
    number
        .to_le_bytes()
        .repeat(usize::try_from(len / 8).unwrap())
}
