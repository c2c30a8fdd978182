use std::rc::Rc;

use strata_exec::Executor;
use strata_storage::SimFile;

use super::*;

const SLICE: u64 = 512;

fn cache(slices: usize) -> (TableCache, Rc<SimFile>) {
    let bytes = (0..200u64).flat_map(|n| n.to_be_bytes().repeat(64));
    let file = Rc::new(SimFile::new("sim", bytes.collect(), 1));
    let cache = TableCache::new(Storage::Sim(file.clone()), SLICE, slices * SLICE as usize);
    (cache, file)
}

fn run(test: impl Future<Output = ()> + 'static) {
    Executor::new().unwrap().block_on(test);
}

#[test]
fn what_is_held_or_dirty_stays() {
    run(async {
        let (cache, _) = cache(16);
        let held = cache.get(0).await.unwrap();
        let dirty = cache.get(SLICE).await.unwrap();
        cache.set_entry(&dirty, 3, 77);
        drop(dirty);
        for n in 2..200 {
            let slice = cache.get(n * SLICE).await.unwrap();
            assert_eq!(slice.entry(0), n);
        }
        assert!(cache.places.borrow().len() <= 18);
        assert!(Rc::ptr_eq(&held, &cache.get(0).await.unwrap()));
        assert_eq!(cache.get(SLICE).await.unwrap().entry(3), 77);
    });
}

#[test]
fn changes_during_a_write_belong_to_the_next_batch() {
    run(async {
        let (cache, _) = cache(16);
        let slice = cache.get(0).await.unwrap();
        cache.set_entry(&slice, 0, 1);
        let batch = cache.take_dirty();
        assert!(!cache.is_dirty());
        cache.set_entry(&slice, 0, 2);
        assert_eq!(batch.writes[0].1[..8], 1u64.to_be_bytes());
        cache.written(&batch);
        let next = cache.take_dirty();
        assert_eq!(next.writes[0].1[..8], 2u64.to_be_bytes());
        assert!(cache.take_dirty().writes.is_empty());
        cache.restore(&next);
        assert_eq!(cache.take_dirty().writes, next.writes);
    });
}

#[test]
fn batches_ascend_and_a_crowd_is_noticed() {
    run(async {
        let (cache, _) = cache(8);
        for n in [5, 3, 9, 1, 7, 2] {
            assert!(!cache.is_crowded());
            let slice = cache.get(n * SLICE).await.unwrap();
            cache.set_entry(&slice, 0, 0);
        }
        assert!(cache.is_crowded());
        let offsets: Vec<_> = cache
            .take_dirty()
            .writes
            .iter()
            .map(|w| w.0 / SLICE)
            .collect();
        assert_eq!(offsets, [1, 2, 3, 5, 7, 9]);
    });
}

#[test]
fn a_table_that_is_given_up_is_read_again() {
    run(async {
        let (cache, file) = cache(8);
        cache.get(SLICE).await.unwrap();
        Storage::Sim(file)
            .write_vec(SLICE, vec![9; 512])
            .await
            .unwrap();
        assert_eq!(cache.get(SLICE).await.unwrap().entry(0), 1);
        cache.forget(0, 2 * SLICE);
        assert_eq!(
            cache.get(SLICE).await.unwrap().entry(0),
            0x0909_0909_0909_0909
        );
    });
}

/// A table may be given up while a piece of it is being read, and while others wait for that.
#[test]
fn a_table_that_is_given_up_while_it_is_read_does_not_come_back() {
    let exec = Executor::new().unwrap();
    let (cache, file) = cache(8);
    let cache = Rc::new(cache);
    let loaded = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let (cache, loaded) = (cache.clone(), loaded.clone());
        exec.spawn(strata_exec::Queue::Guest, async move {
            // What it said when it was asked for.
            assert_eq!(cache.get(SLICE).await.unwrap().entry(0), 1);
            loaded.set(loaded.get() + 1);
        });
    }
    exec.block_on(async move {
        strata_exec::yield_now().await;
        assert_eq!(cache.places.borrow().len(), 1, "it is being read");
        cache.forget(0, 2 * SLICE);
        while loaded.get() < 3 {
            strata_exec::yield_now().await;
        }
        Storage::Sim(file)
            .write_vec(SLICE, vec![9; 512])
            .await
            .unwrap();
        assert_eq!(
            cache.get(SLICE).await.unwrap().entry(0),
            0x0909_0909_0909_0909
        );
    });
}
