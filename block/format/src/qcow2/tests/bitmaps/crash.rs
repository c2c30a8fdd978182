//! A crash at every moment: whatever differs from the disk as it was when the bitmap was begun is
//! dirty in it, if it calls itself valid.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use strata_exec::{Executor, Queue, yield_now};
use strata_storage::Faults;

use super::*;

/// What the disk holds when the bitmap is begun.
const BEFORE: u8 = 0x55;

/// What crashes would leave at every step of `work`, which goes on.
async fn crash_all_along(
    exec: &Rc<Executor>,
    file: &Rc<SimFile>,
    work: impl Future<Output = ()>,
) -> Vec<Vec<u8>> {
    let crashes = Rc::new(RefCell::new(Vec::new()));
    let over = Rc::new(Cell::new(false));
    let watch = {
        let (file, crashes, over) = (file.clone(), crashes.clone(), over.clone());
        async move {
            while !over.get() {
                let seed = crashes.borrow().len() as u64;
                crashes.borrow_mut().push(file.crash(seed));
                yield_now().await;
            }
        }
    };
    exec.spawn(Queue::Guest, watch);
    work.await;
    over.set(true);
    yield_now().await;
    crashes.take()
}

/// Opens what a crash has left, and says whether its bitmap is valid.
async fn survives(bytes: Vec<u8>, with_qemu: bool) -> bool {
    let file = sim_with(bytes, 1);
    let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
    let report = layer.image.check().await.unwrap();
    let errors = (report.corruptions, report.check_errors);
    assert_eq!(errors, (0, 0), "{report:#?}");
    if with_qemu {
        check_bytes(&file.bytes(), true);
    }
    let bitmap = bitmap(&layer, "b");
    if bitmap.is_inconsistent() {
        return false;
    }
    for (n, sector) in layer.read_all().await.chunks(512).enumerate() {
        let same = sector.iter().all(|byte| *byte == BEFORE);
        let recorded = bitmap.run_at(n as u64 * 512).1;
        assert!(same || recorded, "a change of sector {n} is not recorded");
    }
    true
}

async fn run(exec: Rc<Executor>, seed: u64, cluster: u64, lazy: bool) {
    let file = sim(seed);
    let size = 128 << 10;
    let mut layer = with_bitmap(&file, cluster, size, lazy).await;
    layer.write(0, vec![BEFORE; size as usize]).await.unwrap();
    bitmap(&layer, "b").clear();
    layer.image.close().await.unwrap();
    let mut random = Random(seed);
    let (mut valid, mut all) = (0, 0);
    for round in 0..6 {
        let work = async {
            for _ in 0..3 {
                change(&layer, &mut random).await;
                if random.chance(30) {
                    layer.image.flush().await.unwrap();
                }
            }
            layer.image.close().await.unwrap();
        };
        let crashes = crash_all_along(&exec, &file, work).await;
        all += crashes.len();
        for (n, crash) in crashes.into_iter().enumerate() {
            valid += usize::from(survives(crash, n % 32 == 0).await);
        }
        if round % 2 == 1 {
            layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        }
    }
    // It is valid before the first write and when it has been stored, and at no other time.
    assert!((12..all - 50).contains(&valid), "{valid} of {all}");
}

#[test]
fn a_valid_bitmap_covers_every_write_before_a_crash() {
    for (seed, cluster, lazy) in [
        (1, 512, false),
        (2, 4096, false),
        (3, 512, true),
        (4, 4096, true),
    ] {
        with_seed(seed, |exec, seed| run(exec, seed, cluster, lazy));
    }
}

#[test]
fn no_room_for_the_bitmaps_leaves_them_in_use_and_all_else_whole() {
    with_seed(8, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.write(8192, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        layer.write(16384, vec![1; 512]).await.unwrap();
        layer.image.flush().await.unwrap();
        file.fail_after(2);
        layer.image.close().await.unwrap_err();
        file.fail_after(u64::MAX);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert!(bitmap(&layer, "b").is_inconsistent());
        assert_eq!(layer.read_vec(16384, 512).await.unwrap(), [1; 512]);
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert!(bitmap(&layer, "b").is_inconsistent());
        assert_eq!(layer.image.check().await.unwrap().corruptions, 0);
    });
}

#[test]
fn nobody_writes_when_the_mark_cannot_be_made() {
    with_seed(9, |exec, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.write(8192, vec![1; 4096]).await.unwrap();
        layer.image.close().await.unwrap();
        let before = file.bytes();
        file.set_faults(Faults {
            flush: 1000,
            ..Faults::default()
        });
        let failed = Rc::new(Cell::new(0));
        for _ in 0..4 {
            let (layer, failed) = (layer.clone(), failed.clone());
            exec.spawn(Queue::Guest, async move {
                layer.write(8192, vec![2; 512]).await.unwrap_err();
                failed.set(failed.get() + 1);
            });
        }
        while failed.get() < 4 {
            yield_now().await;
        }
        assert!(file.bytes() == before);
    });
}
