//! DATA SET MANAGEMENT with TRIM: the ranges of one command (ATA8-ACS-2, 7.5.3.3).

use std::{cell::RefCell, rc::Rc};

use strata_block::disk::{Completion, Disk, Op, Request};
use strata_exec::mem::SgList;
use strata_storage::error::IoError;

use crate::ide::drive::SECTOR;

/// Bytes of one range: 48 bits of LBA, 16 bits of sectors.
const RANGE: usize = 8;
const LBA_BITS: u32 = 48;

/// The ranges in `list`, in bytes; those of no sectors mean nothing. An error if one does not lie
/// on a disk of `size` bytes: then none is discarded.
fn ranges(list: &[u8], size: u64) -> Result<Vec<(u64, u64)>, IoError> {
    let (entries, _) = list.as_chunks::<RANGE>();
    let parse = |entry: &[u8; RANGE]| {
        let entry = u64::from_le_bytes(*entry);
        let (lba, sectors) = (entry & ((1 << LBA_BITS) - 1), entry >> LBA_BITS);
        (lba * SECTOR, sectors * SECTOR)
    };
    let ranges: Vec<_> = entries
        .iter()
        .map(parse)
        .filter(|range| range.1 != 0)
        .collect();
    if ranges.iter().all(|(offset, len)| offset + len <= size) {
        Ok(ranges)
    } else {
        Err(IoError::OutOfRange)
    }
}

/// What the requests of one command share: how many have not ended, and the first error.
struct Pending<F> {
    left: usize,
    result: Completion,
    done: Option<F>,
}

/// Discards what `list` names; `done` is called once, when all of it has ended.
pub fn run<F: FnOnce(Completion) + 'static>(disk: &Disk, list: &[u8], done: F) {
    let ranges = match ranges(list, disk.info().size) {
        Ok(ranges) if ranges.is_empty() => return done(Ok(())),
        Ok(ranges) => ranges,
        Err(error) => return done(Err(error)),
    };
    let pending = Rc::new(RefCell::new(Pending {
        left: ranges.len(),
        result: Ok(()),
        done: Some(done),
    }));
    for (offset, len) in ranges {
        let pending = Rc::clone(&pending);
        let request = Request {
            op: Op::Discard,
            offset,
            len,
            data: SgList::empty(),
        };
        disk.submit(request, move |result| end_one(&pending, result));
    }
}

fn end_one<F: FnOnce(Completion)>(pending: &RefCell<Pending<F>>, result: Completion) {
    let mut shared = pending.borrow_mut();
    shared.left -= 1;
    if shared.result.is_ok() {
        shared.result = result;
    }
    if shared.left > 0 {
        return;
    }
    let result = std::mem::replace(&mut shared.result, Ok(()));
    let done = shared.done.take();
    drop(shared);
    if let Some(done) = done {
        done(result);
    }
}
