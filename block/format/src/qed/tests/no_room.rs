//! Files that cannot be written for want of room, or of luck.

use std::rc::Rc;

use strata_storage::{Faults, error::IoError};

use super::*;

fn options() -> CreateOptions {
    CreateOptions {
        size: 8 << 20,
        cluster_size: 4096,
        table_clusters: 1,
        backing: None,
    }
}

async fn new_image(seed: u64) -> (Rc<SimFile>, Qed) {
    let sim = Rc::new(SimFile::new("image", Vec::new(), seed));
    let file = Storage::Sim(sim.clone());
    create(file.clone(), options()).await.unwrap();
    file.flush().await.unwrap();
    (sim, Qed::open(file, false, CACHE).await.unwrap())
}

async fn write(image: &Qed, offset: u64, len: usize) -> IoResult<()> {
    let data = SgList::from_vec(vec![1; len]);
    image.write(offset, data, &Nothing).await
}

/// What a request found no room for is not missing for ever.
#[test]
fn a_full_disk_leaves_no_leaks() {
    for seed in 0..40 {
        let exec = Executor::seeded(seed).unwrap();
        exec.block_on(async move {
            let (sim, image) = new_image(seed).await;
            write(&image, 0, 8192).await.unwrap();
            sim.set_room(Some(seed % 8));
            for n in 0..3 {
                let error = write(&image, (n * 2 + 1) << 20, 40960).await.unwrap_err();
                assert!(matches!(error, IoError::NoSpace { .. }), "{error}");
            }
            sim.set_room(None);
            write(&image, 3 << 20, 20000).await.unwrap();
            assert!(read(&image, 3 << 20, 20000).await == vec![1; 20000]);
            image.close().await.unwrap();
            let report = image.check().await.unwrap();
            assert!(report.is_clean(), "seed {seed}: {report:?}");
        });
    }
}

/// The same where nothing is written any more: an image that is closed has no leaks.
#[test]
fn a_disk_that_stays_full_leaves_no_leaks() {
    for seed in 0..20 {
        let exec = Executor::seeded(seed).unwrap();
        exec.block_on(async move {
            let (sim, image) = new_image(seed).await;
            write(&image, 0, 8192).await.unwrap();
            image.flush().await.unwrap();
            sim.set_room(Some(seed % 8));
            write(&image, 1 << 20, 40960).await.unwrap_err();
            image.close().await.unwrap();
            let report = image.check().await.unwrap();
            assert!(report.is_clean(), "seed {seed}: {report:?}");
        });
    }
}

fn named(len: usize) -> Option<Backing> {
    Some(Backing {
        name: "x".repeat(len).into(),
        format: None,
    })
}

/// After an error nobody knows which header the file has.
#[test]
fn a_header_that_cannot_be_written_stops_the_image() {
    for (seed, len) in (0..).zip([10, 700, 10, 700, 10, 700]) {
        let exec = Executor::seeded(seed).unwrap();
        exec.block_on(async move {
            let (sim, image) = new_image(seed).await;
            sim.set_faults(Faults {
                write: 1000,
                ..Faults::default()
            });
            image.set_backing(named(len)).await.unwrap_err();
            sim.set_faults(Faults::default());
            assert!(image.is_stopped());
            assert_eq!(image.backing(), None);
            write(&image, 0, 512).await.unwrap_err();
        });
    }
}

/// One that found no room is as it was, and so is what is in memory.
#[test]
fn a_header_without_room_is_written_later() {
    for len in [10, 700] {
        let exec = Executor::seeded(1).unwrap();
        exec.block_on(async move {
            let (sim, image) = new_image(1).await;
            // The header's block has to be taken from the disk again.
            let file = Storage::Sim(sim.clone());
            let bytes = file.read_vec(0, 64).await.unwrap();
            file.punch_hole(0, 4096).await.unwrap();
            sim.set_room(Some(0));
            image.set_backing(named(len)).await.unwrap_err();
            assert!(!image.is_stopped());
            assert_eq!(image.backing(), None);
            write(&image, 0, 512).await.unwrap_err();
            assert!(!image.is_stopped() && !image.is_dirty());
            sim.set_room(None);
            file.write_vec(0, bytes).await.unwrap();
            write(&image, 0, 512).await.unwrap();
            image.set_backing(named(len)).await.unwrap();
            image.close().await.unwrap();
            let image = Qed::open(file, false, CACHE).await.unwrap();
            assert_eq!(image.backing(), named(len));
            assert_eq!(read(&image, 0, 512).await, [1; 512]);
        });
    }
}

/// A change that flushes several times.
type Change = fn(Rc<Qed>) -> LocalBoxFuture<'static, strata_storage::error::Result<()>>;

/// A flush that fails may have lost writes, whatever its error.
#[test]
fn a_flush_without_room_stops_the_image() {
    let changes: [Change; 3] = [
        |image| Box::pin(async move { image.set_backing(named(700)).await }),
        |image| Box::pin(async move { image.resize(12 << 20, &Nothing).await }),
        |image| {
            Box::pin(async move {
                write(&image, 1 << 20, 20000).await?;
                image.close().await
            })
        },
    ];
    for change in changes {
        for flush in 0.. {
            let exec = Executor::seeded(flush).unwrap();
            let ended = exec.block_on(async move {
                let (sim, image) = new_image(flush).await;
                write(&image, 0, 8192).await.unwrap();
                let image = Rc::new(image);
                sim.fill_up_at_flush(Some(flush));
                let result = change(image.clone()).await;
                if sim.losses() == 0 {
                    result.unwrap();
                    return true;
                }
                result.unwrap_err();
                assert!(image.is_stopped(), "flush {flush}");
                false
            });
            if ended {
                assert!(flush > 1);
                break;
            }
        }
    }
}
