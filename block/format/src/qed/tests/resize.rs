//! Growing over what lies below, with a crash at any moment.

use std::rc::Rc;

use strata_exec::{Executor, LocalBoxFuture, Queue, mem::SgList};
use strata_storage::{SimFile, Storage, error::IoResult};

use super::{CACHE, CreateOptions, Qed, create, read};
use crate::{
    below::{Below, Nothing},
    extent::ExtentKind,
};

/// The disk before, which ends within a cluster, and after. Bytes.
const SIZES: (u64, u64) = (3 * 4096 + 512, 5 * 4096);

/// A layer below that is longer than the disk.
struct Ones;

impl Below for Ones {
    fn read_below(&self, _offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        data.fill(0, data.len(), 1);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Of an image with the size before and the smallest tables.
fn options() -> CreateOptions {
    CreateOptions {
        size: SIZES.0,
        cluster_size: 4096,
        table_clusters: 1,
        ..CreateOptions::default()
    }
}

/// The files that a crash after so many polls can leave.
fn crash_after(polls: u64) -> Vec<Vec<u8>> {
    let exec = Executor::seeded(polls).unwrap();
    let sim = Rc::new(SimFile::new("image", Vec::new(), polls));
    let file = Storage::Sim(sim.clone());
    let image = exec.block_on(async move {
        create(file.clone(), options()).await.unwrap();
        file.flush().await.unwrap();
        Qed::open(file, false, CACHE).await.unwrap()
    });
    exec.spawn(Queue::Guest, async move {
        image.resize(SIZES.1, &Ones).await.unwrap();
    });
    for _ in 0..polls {
        exec.step(Queue::Guest);
    }
    (0..8).map(|seed| sim.crash(seed)).collect()
}

#[test]
fn a_crash_while_the_disk_grows_never_shows_what_lies_below() {
    let mut sizes = Vec::new();
    for bytes in (0..120).flat_map(crash_after) {
        let exec = Executor::new().unwrap();
        let file = Storage::Sim(Rc::new(SimFile::new("image", bytes, 1)));
        sizes.push(exec.block_on(async move {
            let image = Qed::open(file, true, CACHE).await.unwrap();
            let mut at = SIZES.0;
            while at < image.virtual_size() {
                let extent = image.extent(at, image.virtual_size() - at).await.unwrap();
                assert!(extent.kind != ExtentKind::Unallocated, "at {at}");
                let len = usize::try_from(extent.len).unwrap();
                assert!(read(&image, at, len).await == vec![0; len], "at {at}");
                at += extent.len;
            }
            image.virtual_size()
        }));
    }
    assert!(sizes.contains(&SIZES.0) && sizes.contains(&SIZES.1));
}

/// A crash while the disk grew may have left the name of a table that was made for it. Its place
/// was freed when the image was opened, and somebody else's data may lie there.
#[test]
fn tables_behind_the_end_are_not_taken_for_those_of_a_disk_that_grows() {
    let exec = Executor::seeded(1).unwrap();
    exec.block_on(async {
        let sim = Rc::new(SimFile::new("image", Vec::new(), 1));
        let file = Storage::Sim(sim.clone());
        create(file.clone(), options()).await.unwrap();
        // The second L1 entry; the cluster that it names is the next that is allocated.
        file.write_vec(4096 + 8, 0x2000u64.to_le_bytes().to_vec())
            .await
            .unwrap();
        let image = Qed::open(file.clone(), false, CACHE).await.unwrap();
        let data = vec![0x40; SIZES.0 as usize];
        let list = SgList::from_vec(data.clone());
        image.write(0, list, &Nothing).await.unwrap();
        image.resize(4 << 20, &Ones).await.unwrap();
        image.close().await.unwrap();
        let image = Qed::open(file, true, CACHE).await.unwrap();
        assert!(read(&image, 0, data.len()).await == data);
        let rest = (4 << 20) - data.len();
        assert!(read(&image, data.len() as u64, rest).await == vec![0; rest]);
        let report = image.check().await.unwrap();
        assert_eq!(
            (report.corruptions, report.leaks),
            (0, 0),
            "{:?}",
            report.lines
        );
    });
}
