//! A journal of a guest's requests on standard output: who reads it knows what was acknowledged,
//! also after this process has been killed.

use std::{collections::HashMap, io::Write, rc::Rc};

use strata_graph::GuestDisk;

use super::{
    model::{Kind, Model, Sent},
    operator::OldTop,
};

/// Starts each line, so that others may write to standard output too.
const MARK: &str = "journal:";

pub struct Journal(pub Rc<GuestDisk>, pub OldTop);

/// A line of a journal.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// All is open: requests come from now on.
    Ready,
    /// A write is about to be sent.
    Sent(Kind, u64, u64),
    /// Acknowledged to the guest: the write with this id is done.
    Completed(u64),
    /// Acknowledged to the guest: the write with this id is durable; the disk is to be opened
    /// from the layer of that name.
    Durable(u64, String),
    /// Reported to the guest: the disk ends before the write with this id does.
    Refused(u64),
    /// The disk is about to get that many bytes.
    Resizing(u64),
    /// The disk has that many bytes, durably; its top layer has that name.
    Resized(u64, String),
    /// A flush with this number is about to be sent.
    Flushing(u64),
    /// Acknowledged to the guest: the flush is done; the disk's top layer has that name.
    Flushed(u64, String),
}

impl Journal {
    pub fn sent(&self, kind: Kind, offset: u64, len: u64) {
        put(&format!("sent {kind:?} {offset} {len}"));
    }

    pub fn completed(&self, sent: Sent) {
        put(&format!("completed {}", sent.id));
    }

    pub fn durable(&self, sent: Sent) {
        put(&format!("durable {} {}", sent.id, self.top()));
    }

    pub fn refused(&self, sent: Sent) {
        put(&format!("refused {}", sent.id));
    }

    pub fn flushing(&self, number: u64) {
        put(&format!("flushing {number}"));
    }

    pub fn flushed(&self, number: u64) {
        put(&format!("flushed {number} {}", self.top()));
    }

    fn top(&self) -> String {
        match self.1.of(&self.0) {
            Some((path, _)) => path.display().to_string(),
            None => top(&self.0),
        }
    }
}

pub fn ready() {
    put("ready");
}

pub fn resizing(size: u64) {
    put(&format!("resizing {size}"));
}

pub fn resized(size: u64, disk: &GuestDisk) {
    put(&format!("resized {size} {}", top(disk)));
}

fn top(disk: &GuestDisk) -> String {
    disk.root().path().display().to_string()
}

/// Writes a line, in one call: a reader never sees half of one.
fn put(line: &str) {
    let line = format!("{MARK}{line}\n");
    if std::io::stdout().write_all(line.as_bytes()).is_err() {
        // Nobody reads it any more: whoever started this process has died.
        std::process::exit(1);
    }
}

/// Reads a line; `None` if it is none of a journal.
pub fn parse(line: &str) -> Option<Entry> {
    let line = line.split_once(MARK)?.1;
    if line == "ready" {
        return Some(Entry::Ready);
    }
    let (what, rest) = line.split_once(' ')?;
    let mut words = rest.split(' ');
    if what == "sent" {
        let kind = match words.next()? {
            "Filled" => Kind::Filled,
            "Zeros" => Kind::Zeros,
            _ => Kind::Discarded,
        };
        let mut number = || words.next()?.parse().ok();
        return Some(Entry::Sent(kind, number()?, number()?));
    }
    let number = words.next()?.parse();
    match what {
        "refused" => Some(Entry::Refused(number.ok()?)),
        "resizing" => Some(Entry::Resizing(number.ok()?)),
        "resized" => Some(Entry::Resized(number.ok()?, words.next()?.to_owned())),
        "completed" => Some(Entry::Completed(number.ok()?)),
        "durable" => Some(Entry::Durable(number.ok()?, words.next()?.to_owned())),
        "flushing" => Some(Entry::Flushing(number.ok()?)),
        _ => Some(Entry::Flushed(number.ok()?, words.next()?.to_owned())),
    }
}

/// What a model has learned from a journal.
#[derive(Default)]
pub struct Replay {
    under_way: HashMap<u64, Sent>,
    /// When flushes were sent.
    flushes: HashMap<u64, u64>,
    /// The top layer, as far as it is known.
    pub top: Option<String>,
    /// Flushes that were acknowledged.
    pub flushed: u64,
}

impl Replay {
    pub fn apply(&mut self, entry: Entry, model: &mut Model) {
        match entry {
            Entry::Ready => {}
            Entry::Sent(kind, offset, len) => {
                let sent = model.send(kind, offset, len);
                self.under_way.insert(sent.id, sent);
            }
            Entry::Completed(id) => model.complete(self.under_way[&id]),
            Entry::Durable(id, top) => {
                model.durable(self.under_way[&id]);
                self.top = Some(top);
            }
            Entry::Refused(id) => model.refused(self.under_way[&id]),
            Entry::Resizing(size) => model.resizing(size),
            Entry::Resized(size, top) => {
                model.resized(size);
                self.top = Some(top);
            }
            Entry::Flushing(number) => {
                self.flushes.insert(number, model.now());
            }
            Entry::Flushed(number, top) => {
                model.flushed(self.flushes[&number]);
                self.top = Some(top);
                self.flushed += 1;
            }
        }
    }
}
