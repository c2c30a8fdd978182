//! The merged index of chains: which layer holds a range, without asking one layer after another.
//!
//! Most layers of a deep chain take no writes. Such layers that lie on each other are a *run*, and
//! what a run shows changes with nothing but the graph: so a range that was looked up once is known
//! until the graph changes. Layers that take writes are asked each time, as ever; they are in no
//! run. A read passes the layers that take writes, which is the top, and then looks once into the
//! index, however many layers follow.
//!
//! The index holds *grains*, which are as long as the shortest piece that a layer of the run may
//! hold by itself, in *pages*. A page is filled layer by layer, only as far down as somebody wants
//! to know; a layer is asked for all that the page lacks, so layers are not asked again for each
//! grain.
//!
//! # What keeps it true
//! All graphs of a thread have one index. Whatever makes a layer writable or read-only, puts it on
//! another one or changes its size ends in [`forget`], which forgets everything: such changes are
//! rare, and what is asked for again is found again. A layer that is changed and has become
//! read-only meanwhile does the same (`Changing`). Who fills a page looks after each await whether
//! something has been forgotten.
//!
//! # Memory
//! 8 bytes for a grain: with clusters of 64 KiB 128 KiB for each GiB of the disk that is in use,
//! and [`MOST_PAGES`] pages for all disks of a thread. Pages beyond that take the place of others.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use strata_exec::mem::to_usize;
use strata_format::extent::{Extent, ExtentKind};

use super::{Format, Node, walk::Turn};

/// Grains of a page.
const GRAINS: usize = 128;

/// Pages at most, a power of two: 17 MiB.
const MOST_PAGES: usize = 1 << 14;

/// Layers of a run at most: so many fit into a grain's bits.
const MOST_LAYERS: usize = 1 << 10;

const SECTOR: u64 = 512;

/// What is known of a grain.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Grain(u64);

/// Layers that take no writes and lie on each other, by the uppermost one.
struct Run {
    /// From the top down. The layers above keep them open.
    layers: Vec<Weak<Node>>,
    /// log2 of the bytes of a grain.
    grain_bits: u32,
}

struct Page {
    run: u32,
    number: u64,
    /// Tells it from one that was in its place before.
    serial: u64,
    /// Layers that have been asked: they say nothing of grains that are unknown.
    asked: usize,
    grains: [Grain; GRAINS],
}

#[derive(Default)]
struct Index {
    /// Rises when everything is forgotten.
    generation: u64,
    runs: Vec<Run>,
    /// Pages so far.
    serial: u64,
    /// Each in its slot; as many slots as pages at most, once there is a page.
    pages: Vec<Option<Box<Page>>>,
    most_pages: usize,
}

thread_local! {
    static INDEX: RefCell<Index> = RefCell::new(Index {
        most_pages: MOST_PAGES,
        ..Index::default()
    });
}

/// The run that a layer is the top of: its number, and in which generation that is true.
#[derive(Default)]
pub(super) struct RunOf(Cell<Option<(u64, u32)>>);

/// What the index says of a range.
pub(super) enum Answer {
    /// The range begins with `len` bytes of this kind, in the layer which lies `below` layers under
    /// the run's top.
    Held {
        len: u64,
        kind: ExtentKind,
        layer: Rc<Node>,
        below: u32,
    },
    /// So many layers hold nothing in `len` bytes; which layer comes next.
    Nothing {
        len: u64,
        layers: u32,
        next: Option<Rc<Node>>,
    },
    /// Not known: [`fill`] finds it out.
    Unknown {
        /// There is no page for it yet.
        is_new: bool,
        /// Bytes of a page.
        window: u64,
    },
    /// The index does not help: layers have to be asked.
    Ask,
}

/// A layer that is asked for what a page lacks.
struct Question {
    generation: u64,
    run: u32,
    page: u64,
    serial: u64,
    layer: Rc<Node>,
    /// Which layer of the run that is.
    place: usize,
    /// The bytes that are asked for.
    at: u64,
    end: u64,
}

/// Forgets everything: the graph has changed, or what a layer shows without having been written.
pub(super) fn forget() {
    INDEX.with_borrow_mut(|index| {
        index.generation += 1;
        index.runs.clear();
        index.pages = Vec::new();
    });
}

/// What is known of the range from `offset` on, for up to `len` bytes, in the run from `top` down
/// and above `base`.
pub(super) fn look_up(top: &Rc<Node>, base: Option<&Rc<Node>>, offset: u64, len: u64) -> Answer {
    INDEX.with_borrow_mut(|index| index.look_up(top, base, offset, len))
}

/// Asks one layer more about the page that `offset` lies in; whether that is known now. If not
/// (there was an error, which may be of another grain, or the page was forgotten), the caller asks
/// the layers itself.
pub(super) async fn fill(top: &Rc<Node>, offset: u64, turn: &mut Turn) -> bool {
    let Some(mut question) = INDEX.with_borrow_mut(|index| index.question(top, offset)) else {
        return false;
    };
    loop {
        turn.look().await;
        let (at, len) = (question.at, question.end - question.at);
        let Ok(extent) = question.layer.look(at, len, true).await else {
            return false;
        };
        match INDEX.with_borrow_mut(|index| index.record(&question, extent)) {
            None => return false,
            Some(at) if at >= question.end => return true,
            Some(at) => question.at = at,
        }
    }
}

impl Index {
    fn look_up(
        &mut self,
        top: &Rc<Node>,
        base: Option<&Rc<Node>>,
        offset: u64,
        len: u64,
    ) -> Answer {
        let number = self.run_of(top);
        let run = &self.runs[number as usize];
        if run.layers.len() < 2 {
            return Answer::Ask;
        }
        // Layers that count: those above the base.
        let is_base = |base: &Rc<Node>| {
            let mut layers = run.layers.iter();
            layers.position(|layer| layer.as_ptr() == Rc::as_ptr(base))
        };
        let most = base.and_then(is_base).unwrap_or(run.layers.len());
        let page_number = run.page(offset);
        let slot = slot(number, page_number, self.most_pages);
        let page = self.pages.get(slot).and_then(Option::as_deref);
        let page = page.filter(|page| (page.run, page.number) == (number, page_number));
        let Some(page) = page else {
            let (is_new, window) = (true, run.window());
            return Answer::Unknown { is_new, window };
        };
        let grain_len = 1 << run.grain_bits;
        let first = run.grain(offset);
        let within = offset % grain_len;
        let found = page.grains[first];
        let nothing = |grain: Grain| match grain.layer() {
            None => grain == Grain::UNKNOWN && page.asked >= most,
            Some(layer) => layer >= most,
        };
        let follows: &dyn Fn(usize, Grain) -> bool = if nothing(found) {
            &|_, grain| nothing(grain)
        } else if found == Grain::UNKNOWN {
            let (is_new, window) = (false, run.window());
            return Answer::Unknown { is_new, window };
        } else if found == Grain::MIXED {
            return Answer::Ask;
        } else {
            &|n, grain| grain == found.following(n as u64 * grain_len)
        };
        let mut end = first + 1;
        while end < GRAINS && ((end - first) as u64 * grain_len - within) < len {
            if !follows(end - first, page.grains[end]) {
                break;
            }
            end += 1;
        }
        let len = ((end - first) as u64 * grain_len - within).min(len);
        if nothing(found) {
            let next = match (base, run.layers.last().and_then(Weak::upgrade)) {
                (Some(base), _) if most < run.layers.len() => Some(base.clone()),
                (_, Some(last)) => last.backing(),
                (_, None) => return Answer::Ask,
            };
            let layers = u32::try_from(most).unwrap_or(u32::MAX);
            return Answer::Nothing { len, layers, next };
        }
        let held = || {
            let place = found.layer()?;
            let layer = run.layers.get(place)?.upgrade()?;
            Some((layer, found.kind(within)?, u32::try_from(place).ok()?))
        };
        match held() {
            Some((layer, kind, below)) => Answer::Held {
                len,
                kind,
                layer,
                below,
            },
            None => Answer::Ask,
        }
    }

    /// The number of the run from `top` down, which takes no writes.
    fn run_of(&mut self, top: &Rc<Node>) -> u32 {
        let known = top.run_of().0.get();
        if let Some((generation, number)) = known
            && generation == self.generation
        {
            return number;
        }
        let layers = || {
            let layers = top.chain().take_while(|layer| !layer.is_writable());
            layers.take(MOST_LAYERS)
        };
        // A raw layer holds all of a grain, but at its end.
        let in_pieces = layers().filter(|layer| layer.format() != Format::Raw);
        let grain = in_pieces.map(|layer| layer.granularity()).min();
        let run = Run {
            layers: layers().map(|layer| Rc::downgrade(&layer)).collect(),
            grain_bits: grain.unwrap_or(1 << 16).max(SECTOR).ilog2(),
        };
        self.runs.push(run);
        let number = u32::try_from(self.runs.len() - 1).expect("a run has a layer in memory");
        top.run_of().0.set(Some((self.generation, number)));
        number
    }

    /// What to ask next about the page of `offset`, which is made if there is none; `None` if no
    /// layer of the run is left.
    fn question(&mut self, top: &Rc<Node>, offset: u64) -> Option<Question> {
        let number = self.run_of(top);
        let run = &self.runs[number as usize];
        let page_number = run.page(offset);
        if self.pages.is_empty() {
            self.pages.resize_with(self.most_pages, || None);
        }
        let slot = &mut self.pages[slot(number, page_number, self.most_pages)];
        let is_it = |page: &Page| (page.run, page.number) == (number, page_number);
        let page = match slot {
            Some(page) if is_it(page) => page,
            _ => {
                self.serial += 1;
                slot.insert(Box::new(Page {
                    run: number,
                    number: page_number,
                    serial: self.serial,
                    asked: 0,
                    grains: [Grain::UNKNOWN; GRAINS],
                }))
            }
        };
        let start = page_number * run.window();
        let first = page.unknown_from(0)?;
        Some(Question {
            generation: self.generation,
            run: number,
            page: page_number,
            serial: page.serial,
            layer: run.layers.get(page.asked)?.upgrade()?,
            place: page.asked,
            at: start + ((first as u64) << run.grain_bits),
            end: start.checked_add(run.window())?,
        })
    }

    /// Enters what a layer has said of the bytes from `question.at` on; where to go on asking, or
    /// `None` if that is of no use any more.
    fn record(&mut self, question: &Question, extent: Extent) -> Option<u64> {
        if question.generation != self.generation {
            return None;
        }
        let run = &self.runs[question.run as usize];
        let slot = slot(question.run, question.page, self.most_pages);
        let page = self.pages.get_mut(slot)?.as_deref_mut();
        let page = page.filter(|page| page.serial == question.serial)?;
        if page.asked > question.place {
            // Another task was faster.
            return Some(question.end);
        }
        let grain_len = 1 << run.grain_bits;
        let (mut at, end) = (question.at, question.at + extent.len);
        let mut next = run.grain(at);
        while at < end {
            let (is_whole, offset) = (end - at >= grain_len, at - question.at);
            let grain = &mut page.grains[next];
            if *grain == Grain::UNKNOWN {
                *grain = if is_whole {
                    Grain::new(question.place, extent.kind, offset)
                } else {
                    Grain::MIXED
                };
            }
            at += grain_len;
            next += 1;
        }
        if let Some(next) = page.unknown_from(next) {
            Some((question.end - run.window()) + ((next as u64) << run.grain_bits))
        } else {
            page.asked = question.place + 1;
            Some(question.end)
        }
    }
}

impl Run {
    /// Bytes of a page.
    fn window(&self) -> u64 {
        (GRAINS as u64) << self.grain_bits
    }

    /// The number of the page that has the byte `offset`.
    fn page(&self, offset: u64) -> u64 {
        offset / self.window()
    }

    /// Which grain of its page has the byte `offset`.
    fn grain(&self, offset: u64) -> usize {
        to_usize((offset >> self.grain_bits) % GRAINS as u64)
    }
}

impl Page {
    /// The first grain that is unknown, from this one on.
    fn unknown_from(&self, first: usize) -> Option<usize> {
        (first..GRAINS).find(|&n| self.grains[n] == Grain::UNKNOWN)
    }
}

impl Grain {
    /// No layer that has been asked holds it.
    const UNKNOWN: Self = Self(0);
    /// No one kind: a layer ends here.
    const MIXED: Self = Self(1);
    const DATA: u64 = 1;
    const COMPRESSED: u64 = 2;
    const ZERO: u64 = 3;
    const LAYER_SHIFT: u32 = 2;
    const SECTOR_SHIFT: u32 = 12;

    /// What the layer at `place` holds `offset` bytes behind the start of an extent of this kind.
    fn new(place: usize, kind: ExtentKind, offset: u64) -> Self {
        let (kind, host) = match kind {
            ExtentKind::Unallocated => return Self::UNKNOWN,
            ExtentKind::Data { host_offset } => (Self::DATA, host_offset.checked_add(offset)),
            ExtentKind::Compressed => (Self::COMPRESSED, Some(0)),
            ExtentKind::Zero => (Self::ZERO, Some(0)),
        };
        // Sectors are counted from 1, so that nothing looks like `MIXED`.
        let sector = host.filter(|host| host.is_multiple_of(SECTOR));
        let sector = sector.map(|host| host / SECTOR + 1);
        match sector.filter(|sector| *sector < 1 << (u64::BITS - Self::SECTOR_SHIFT)) {
            Some(sector) => {
                let layer = (place as u64) << Self::LAYER_SHIFT;
                Self((sector << Self::SECTOR_SHIFT) | layer | kind)
            }
            None => Self::MIXED,
        }
    }

    /// Which layer holds it, if that is known.
    fn layer(self) -> Option<usize> {
        let layer = to_usize(self.0 >> Self::LAYER_SHIFT) % MOST_LAYERS;
        (self.0 > Self::MIXED.0).then_some(layer)
    }

    /// What it is `within` bytes behind its start.
    fn kind(self, within: u64) -> Option<ExtentKind> {
        let host = ((self.0 >> Self::SECTOR_SHIFT).checked_sub(1)?) * SECTOR;
        let host_offset = host + within;
        match self.0 % (1 << Self::LAYER_SHIFT) {
            Self::DATA => Some(ExtentKind::Data { host_offset }),
            Self::COMPRESSED => Some(ExtentKind::Compressed),
            Self::ZERO => Some(ExtentKind::Zero),
            _ => None,
        }
    }

    /// The grain `bytes` further on of the same extent.
    fn following(self, bytes: u64) -> Self {
        match self.0 % (1 << Self::LAYER_SHIFT) {
            Self::DATA => Self(self.0.wrapping_add((bytes / SECTOR) << Self::SECTOR_SHIFT)),
            _ => self,
        }
    }
}

/// The slot of a page, of `count`.
fn slot(run: u32, page: u64, count: usize) -> usize {
    let mixed = u64::from(run).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    to_usize(mixed.wrapping_add(page) % count as u64)
}

/// From now on the thread's index has so many pages at most, and forgets that much sooner.
#[cfg(test)]
pub(super) fn limit_pages(most: usize) {
    forget();
    INDEX.with_borrow_mut(|index| index.most_pages = most);
}

/// Pages that are in memory.
#[cfg(test)]
pub(super) fn pages() -> usize {
    INDEX.with_borrow(|index| index.pages.iter().flatten().count())
}
