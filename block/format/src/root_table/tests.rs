use std::rc::Rc;

use strata_exec::Executor;
use strata_storage::SimFile;

use super::*;

const COUNT: usize = 1000;

/// A table of [`COUNT`] entries at 512, of which those at 0, 1 and 70 are used.
fn table() -> RootTable {
    let mut words = vec![0; 64 + COUNT];
    for index in [0, 1, 70] {
        words[64 + index] = index as u64 + 5;
    }
    let bytes = words.into_iter().flat_map(u64::to_be_bytes).collect();
    let file = Storage::Sim(Rc::new(SimFile::new("sim", bytes, 1)));
    let exec = Executor::new().unwrap();
    let load = async move { RootTable::load(&file, 512, COUNT).await };
    exec.block_on(load).unwrap()
}

#[test]
fn zeros_at_the_end_are_entries_and_take_no_memory() {
    let table = table();
    assert_eq!((table.len(), table.entries.borrow().len()), (COUNT, 71));
    let found = [0, 1, 2, 70, 71, COUNT - 1, COUNT].map(|index| table.get(index));
    assert_eq!(found, [5, 6, 0, 75, 0, 0, 0]);
    let all = table.entries();
    assert_eq!((all.len(), all[70], all[COUNT - 1]), (COUNT, 75, 0));
}

#[test]
fn an_entry_behind_what_was_used_is_written_with_its_sector() {
    let table = table();
    table.set(COUNT - 1, 9);
    table.set(130, 8);
    assert_eq!((table.get(COUNT - 1), table.get(130)), (9, 8));
    let batch = table.take_dirty();
    let shape: Vec<_> = batch.writes.iter().map(|(at, b)| (*at, b.len())).collect();
    // The last sector of the table is no whole one.
    assert_eq!(shape, [(512 + 128 * 8, 512), (512 + 960 * 8, 40 * 8)]);
    let (first, last) = (&batch.writes[0].1, &batch.writes[1].1);
    assert_eq!(
        (&first[16..24], &last[312..]),
        (&8u64.to_be_bytes()[..], &9u64.to_be_bytes()[..])
    );
    assert_eq!(
        first.iter().chain(last).filter(|byte| **byte != 0).count(),
        2
    );
    table.restore(batch);
    assert_eq!(table.take_dirty().writes.len(), 2);
}

#[test]
fn the_last_sector_of_a_table_that_became_empty_is_written_as_zeros() {
    let table = table();
    table.set(70, 0);
    assert_eq!(table.take_dirty().writes, [(1024, vec![0; 512])]);
    table.moved(4096, vec![1; 3]);
    assert_eq!((table.len(), table.offset(), table.get(3)), (3, 4096, 0));
}

#[test]
#[should_panic(expected = "entry 1000 of 1000")]
fn nothing_is_set_behind_the_end() {
    table().set(COUNT, 1);
}
