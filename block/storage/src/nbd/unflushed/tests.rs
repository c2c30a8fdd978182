use strata_exec::mem::SgList;

use super::*;
use crate::nbd::wire::proto::{CommandFlags, command};

fn write(offset: u64, len: usize) -> Call {
    Call {
        kind: command::WRITE,
        flags: CommandFlags::empty(),
        offset,
        len: len as u32,
        data: SgList::zeroed(len),
    }
}

fn offsets(calls: &VecDeque<Call>) -> Vec<u64> {
    calls.iter().map(|call| call.offset).collect()
}

#[test]
fn a_flush_covers_what_was_acknowledged_when_it_was_sent() {
    let unflushed = Unflushed::default();
    (0..4).for_each(|n| unflushed.add(write(n, 512)));
    let covered = unflushed.count();
    unflushed.add(write(4, 512));
    unflushed.forget(covered);
    // One that was sent before it, and has been slower.
    unflushed.forget(2);
    assert_eq!(offsets(&unflushed.take()), [4]);
}

#[test]
fn what_is_sent_again_is_kept_again() {
    let unflushed = Unflushed::default();
    (0..3).for_each(|n| unflushed.add(write(n, 512)));
    let covered = unflushed.count();
    for call in unflushed.take() {
        unflushed.add(call);
    }
    // Of a flush whose answer was lost with the connection nothing is known.
    unflushed.forget(covered);
    assert_eq!(offsets(&unflushed.take()), [0, 1, 2]);
}

#[test]
fn memory_is_bounded_for_large_and_for_small_calls() {
    for (len, most) in [(1 << 20, 32), (0, 32 << 10)] {
        let unflushed = Unflushed::default();
        let mut count = 0;
        while !unflushed.is_full() {
            unflushed.add(write(count, len));
            count += 1;
        }
        assert!((most / 2..=most).contains(&count), "{count}");
        unflushed.forget(unflushed.count());
        assert!(!unflushed.is_full());
    }
}
