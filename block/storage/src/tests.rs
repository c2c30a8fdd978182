use std::{
    future::{Future, poll_fn},
    path::Path,
    rc::Rc,
    task::Poll,
};

use strata_exec::{Executor, Queue, mem::SgList};

use super::{Aio, FileExtent, FileOptions, FileStorage, Storage};
use crate::error::{Error, IoError};

/// Runs it for a new file of every kind.
fn on_file(test: impl AsyncFn(Storage) + Copy + 'static) {
    for aio in [Aio::Threads, Aio::IoUring] {
        for direct in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let exec = Executor::new().unwrap();
            let path = directory.path().join("image");
            drop(FileStorage::create(&exec, &path).unwrap());
            let options = FileOptions {
                direct,
                aio,
                ..FileOptions::default()
            };
            let file = FileStorage::open(&exec, &path, options).unwrap();
            exec.block_on(async move { test(Storage::File(Rc::new(file))).await });
        }
    }
}

fn open(path: &Path, read_only: bool) -> Result<FileStorage, Error> {
    let exec = Executor::new().unwrap();
    FileStorage::open(
        &exec,
        path,
        FileOptions {
            read_only,
            ..Default::default()
        },
    )
}

#[test]
fn writes_grow_the_file_and_reads_past_the_end_are_zero() {
    on_file(async |storage| {
        storage.write_vec(1000, vec![7; 100]).await.unwrap();
        assert_eq!(storage.len(), 1100);
        let bytes = storage.read_vec(1050, 100).await.unwrap();
        assert_eq!((&bytes[..50], &bytes[50..]), (&[7; 50][..], &[0; 50][..]));
        assert_eq!(storage.read_vec(5000, 10).await.unwrap(), [0; 10]);
        storage.flush().await.unwrap();
    });
}

#[test]
fn a_request_of_several_pieces_is_whole() {
    on_file(async |storage| {
        let bytes: Vec<u8> = (0..(3 << 20) + 512u32).map(|i| (i / 512) as u8).collect();
        storage.write_vec(100, bytes.clone()).await.unwrap();
        assert_eq!(storage.len(), 100 + bytes.len() as u64);
        assert_eq!(storage.read_vec(100, bytes.len()).await.unwrap(), bytes);
    });
}

#[test]
fn zeroing_that_grows_the_file_keeps_what_others_write_behind_it() {
    on_file(async |storage| {
        for n in 0..300u64 {
            let (offset, behind) = (n * 8192, n * 8192 + 4096);
            let mut zeroing = Box::pin(storage.write_zeroes(offset, 4096, false));
            let mut writing = Box::pin(storage.write_vec(behind, vec![7; 4096]));
            // It is under way on a helper thread while the other write comes.
            let (mut zeroed, mut written) = (None, None);
            poll_fn(|cx| {
                let ended = |poll: Poll<_>| match poll {
                    Poll::Ready(result) => Some(result),
                    Poll::Pending => None,
                };
                zeroed = zeroed.take().or_else(|| ended(zeroing.as_mut().poll(cx)));
                written = written.take().or_else(|| ended(writing.as_mut().poll(cx)));
                if zeroed.is_some() && written.is_some() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            zeroed.unwrap().unwrap();
            written.unwrap().unwrap();
            let seen = storage.read_vec(behind, 4096).await.unwrap();
            assert!(seen == [7; 4096], "round {n}: bytes are lost");
        }
    });
}

#[test]
fn zeroing_stays_in_its_range_and_grows_the_file() {
    on_file(async |storage| {
        storage.write_vec(0, vec![9; 12288]).await.unwrap();
        storage.write_zeroes(4096, 4096, true).await.unwrap();
        storage.write_zeroes(10000, 10000, false).await.unwrap();
        assert_eq!(storage.len(), 20000);
        let bytes = storage.read_vec(0, 20000).await.unwrap();
        let expected = |i: usize| {
            if i < 4096 || (8192..10000).contains(&i) {
                9
            } else {
                0
            }
        };
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(i, &byte)| byte == expected(i))
        );
    });
}

#[test]
fn holes_are_told_from_data() {
    on_file(async |storage| {
        storage.write_vec(1 << 20, vec![1; 65536]).await.unwrap();
        storage.set_len(4 << 20).await.unwrap();
        assert_eq!(
            storage.extent(0, 4 << 20).await,
            FileExtent {
                len: 1 << 20,
                data: false
            }
        );
        assert_eq!(
            storage.extent(1 << 20, 4096).await,
            FileExtent {
                len: 4096,
                data: true
            }
        );
        assert!(!storage.extent(2 << 20, 4096).await.data);
        assert!(!storage.extent(8 << 20, 4096).await.data);
        storage.punch_hole(1 << 20, 65536).await.unwrap();
        assert!(!storage.extent(1 << 20, 4096).await.data);
        assert_eq!(storage.len(), 4 << 20);
    });
}

#[test]
fn many_pieces_go_in_one_request() {
    on_file(async |storage| {
        let whole = SgList::from_vec((0..3000u32).flat_map(u32::to_le_bytes).collect());
        let base = whole.pieces().next().unwrap().0;
        let pieces: Vec<_> = (0..3000).map(|i| (base.wrapping_add(i * 4), 4)).collect();
        #[allow(unsafe_code)]
        // SAFETY: the pieces lie in `whole`, which the list keeps.
        let list = unsafe { SgList::from_raw(pieces, std::sync::Arc::new(whole.clone())) };
        storage.write(12, list.clone()).await.unwrap();
        let expected = whole.to_vec();
        whole.fill(0, whole.len(), 0);
        storage.read(12, list).await.unwrap();
        assert_eq!(whole.to_vec(), expected);
    });
}

#[test]
fn overlapping_flushes_all_end() {
    let directory = tempfile::tempdir().unwrap();
    let exec = Executor::new().unwrap();
    let file = Rc::new(FileStorage::create(&exec, &directory.path().join("image")).unwrap());
    for i in 0..10u64 {
        let storage = Storage::File(file.clone());
        exec.spawn(Queue::Guest, async move {
            storage.write_vec(i * 512, vec![1; 512]).await.unwrap();
            storage.flush().await.unwrap();
            storage.write_vec(i * 512, vec![2; 512]).await.unwrap();
            storage.flush().await.unwrap();
        });
    }
    exec.block_on(async move {
        while Rc::strong_count(&file) > 1 {
            strata_exec::yield_now().await;
        }
        assert_eq!(
            Storage::File(file).read_vec(0, 5120).await.unwrap(),
            [2; 5120]
        );
    });
}

#[test]
fn opening_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let text = |path: &Path| open(path, false).err().unwrap().to_string();
    assert!(text(&directory.path().join("nosuch")).contains("No such file"));
    let reading = open(directory.path(), true).err().unwrap().to_string();
    assert!(reading.contains("is a directory"), "{reading}");
    let file = directory.path().join("image");
    std::fs::write(&file, "x").unwrap();
    let exec = Executor::new().unwrap();
    assert!(FileStorage::create(&exec, &file).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let storage = Storage::File(Rc::new(open(&file, true).unwrap()));
    let result = exec.block_on(async move { storage.write_vec(0, vec![1]).await });
    assert!(matches!(result, Err(IoError::ReadOnly)));
}

#[test]
fn the_host_copies_from_file_to_file() {
    let directory = tempfile::tempdir().unwrap();
    let exec = Executor::new().unwrap();
    let files = ["a", "b"].map(|name| {
        let file = FileStorage::create(&exec, &directory.path().join(name)).unwrap();
        Storage::File(Rc::new(file))
    });
    exec.block_on(async move {
        let [from, to] = files;
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n / 512) as u8).collect();
        from.write_vec(0, bytes.clone()).await.unwrap();
        assert!(to.copy_from(5000, &from, 1000, 90_000).await.unwrap());
        assert_eq!(to.len(), 95_000);
        assert_eq!(
            to.read_vec(5000, 90_000).await.unwrap(),
            bytes[1000..91_000]
        );
        // What lies behind the end is for others to make.
        assert!(!to.copy_from(0, &from, 99_000, 2000).await.unwrap());
    });
}
