//! Layers below the top that become writable, are written, and become read-only again.

use std::{cell::Cell, fs::File, path::Path, rc::Rc};

use strata_exec::{Executor, Queue, mem::SgList, yield_now};
use strata_format::{backing::Backing, extent::ExtentKind, qcow2::CreateOptions};
use strata_storage::{
    FileOptions, FileStorage,
    error::{Error, IoError},
};

use super::support::*;
use crate::{
    Format, Node,
    chain::{ImageOptions, Opener},
    commit, create_image,
};

const SECTORS: u64 = 128;

/// A chain of three layers of one size with data in each, `top` above `mid` above `base`.
async fn chain(random: &mut u64) -> Bytes {
    let mut bytes = Bytes::new();
    let mut lower = None;
    for name in ["base", "mid", "top"] {
        let kind = Kind::random(random);
        create(&mut bytes, name, kind, SECTORS * 512, lower).await;
        lower = Some(name);
        let files = Files::new(&bytes, 0);
        let node = files.open(name, &[name]).await;
        scribble(&node, random).await;
        node.image().close().await.unwrap();
        bytes = files.bytes();
    }
    bytes
}

fn layer(top: &Rc<Node>, depth: usize) -> Rc<Node> {
    top.chain().nth(depth).unwrap()
}

/// Writes to `node`, a layer below `top`, and notes in `shown` what `top` shows of that.
async fn write_below(top: &Rc<Node>, node: &Rc<Node>, random: &mut u64, shown: &mut [u8]) {
    for _ in 0..8 {
        let sector = below(random, SECTORS - 8);
        let (start, len) = (sector * 512, (1 + below(random, 8)) * 512);
        let byte = below(random, 3) as u8;
        let data = SgList::from_vec(vec![byte; len as usize]);
        match (byte, below(random, 2)) {
            (0, 0) => node.write_zeroes(start, len, true).await.unwrap(),
            _ => node.write(start, data).await.unwrap(),
        }
        for at in (start..start + len).step_by(512) {
            let extent = top.extent(at, 512).await.unwrap();
            if extent.kind == ExtentKind::Unallocated {
                shown[at as usize..][..512].fill(byte);
            }
        }
    }
}

/// Nothing is wrong with the image, and it was closed cleanly.
async fn assert_clean(files: &Files, name: &str) {
    let node = files.open(name, &[]).await;
    assert!(!node.image().is_dirty());
    let report = node.image().check(None).await.unwrap().unwrap();
    assert!(report.is_clean(), "{:?}", report.lines);
}

#[test]
fn a_layer_in_the_middle_is_written_and_read_through_the_top() {
    seeds(30, async |_, seed| {
        let mut random = seed;
        let files = Files::new(&chain(&mut random).await, seed);
        let top = files.open("top", &["top"]).await;
        let mid = layer(&top, 1);
        let mut shown = read_all(&top).await;
        for _ in 0..2 {
            mid.prepare_writing().await.unwrap();
            assert!(mid.is_writable());
            write_below(&top, &mid, &mut random, &mut shown).await;
            assert_shows(&top, &shown).await;
            mid.finish_writing().await.unwrap();
            let refused = mid.write(0, SgList::zeroed(512)).await;
            assert!(matches!(refused, Err(IoError::ReadOnly)));
            assert_shows(&top, &shown).await;
            assert_clean(&files, "mid").await;
        }
        top.image().close().await.unwrap();
        assert_shows(&files.open("top", &[]).await, &shown).await;
    });
}

#[test]
fn the_power_is_cut_while_a_layer_in_the_middle_is_written() {
    seeds(20, async |exec, seed| {
        let mut random = seed;
        let files = Files::new(&chain(&mut random).await, seed);
        let top = files.open("top", &["top"]).await;
        let done = Rc::new(Cell::new(false));
        exec.spawn(Queue::Guest, {
            let (top, done) = (top.clone(), done.clone());
            async move {
                let (mid, mut shown) = (layer(&top, 1), read_all(&top).await);
                mid.prepare_writing().await.unwrap();
                write_below(&top, &mid, &mut random, &mut shown).await;
                mid.finish_writing().await.unwrap();
                done.set(true);
            }
        });
        let mut moment = 0;
        while !done.get() {
            moment += 1;
            if moment % 16 == 0 {
                Files::new(&files.crash(moment), seed).check().await;
            }
            yield_now().await;
        }
        // Going back has made it durable.
        let shown = read_all(&top).await;
        let left = Files::new(&files.crash(0), seed);
        assert_clean(&left, "mid").await;
        assert_shows(&left.open("top", &[]).await, &shown).await;
    });
}

#[test]
fn a_file_that_cannot_be_written_stays_as_it_is() {
    seeds(10, async |_, seed| {
        let mut random = seed;
        let files = Files::new(&chain(&mut random).await, seed);
        let top = files.open("top", &["top"]).await;
        let (mid, shown) = (layer(&top, 1), read_all(&top).await);
        let before = files.bytes();
        files.file("mid").set_write_protected(true);
        let error = mid.prepare_writing().await.unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert!(error.to_string().contains("'mid'"), "{error}");
        assert!(!mid.is_writable());
        let refused = mid.write(0, SgList::zeroed(512)).await;
        assert!(matches!(refused, Err(IoError::ReadOnly)));
        assert_shows(&top, &shown).await;
        assert!(files.bytes() == before);
        files.file("mid").set_write_protected(false);
        mid.prepare_writing().await.unwrap();
        mid.finish_writing().await.unwrap();
        assert_shows(&top, &shown).await;
    });
}

/// Sends `work` on its way and lets it run as far as it gets; whether it has ended.
async fn start(exec: &Executor, work: impl Future<Output = ()> + 'static) -> Rc<Cell<bool>> {
    let done = Rc::new(Cell::new(false));
    let mark = done.clone();
    exec.spawn(Queue::Guest, async move {
        work.await;
        mark.set(true);
    });
    rest().await;
    done
}

async fn rest() {
    for _ in 0..1000 {
        yield_now().await;
    }
}

#[test]
fn readers_who_have_not_entered_are_waited_for() {
    seeds(4, async |exec, seed| {
        let files = Files::new(&chain(&mut { seed }).await, seed);
        let top = files.open("top", &["top"]).await;
        let mid = layer(&top, 1);
        let reading = mid.reading(0, 512).await.unwrap();
        let prepared = {
            let mid = mid.clone();
            start(&exec, async move { mid.prepare_writing().await.unwrap() }).await
        };
        assert!(!prepared.get());
        // Those who come now enter, and are not waited for.
        let second = mid.reading(0, 512).await.unwrap();
        drop(reading);
        rest().await;
        assert!(prepared.get());
        let zeroed = {
            let mid = mid.clone();
            start(&exec, async move {
                mid.write_zeroes(0, 512, true).await.unwrap()
            })
            .await
        };
        assert!(!zeroed.get());
        let finished = {
            let mid = mid.clone();
            drop(second);
            rest().await;
            start(&exec, async move { mid.finish_writing().await.unwrap() }).await
        };
        assert!(zeroed.get() && finished.get());
    });
}

/// A chain of three layers that hold nothing.
async fn empty_chain() -> Files {
    let kind = Kind::Qcow2 {
        cluster: 4096,
        version: 3,
    };
    let (mut bytes, mut lower) = (Bytes::new(), None);
    for name in ["base", "mid", "top"] {
        create(&mut bytes, name, kind, SECTORS * 512, lower).await;
        lower = Some(name);
    }
    Files::new(&bytes, 1)
}

#[test]
fn what_a_walk_has_found_stays_until_it_is_let_go() {
    seeds(1, async |exec, _| {
        let files = empty_chain().await;
        let top = files.open("top", &["top"]).await;
        let (mid, base) = (layer(&top, 1), layer(&top, 2));
        for node in [&mid, &base] {
            node.prepare_writing().await.unwrap();
        }
        mid.write(0, SgList::zeroed(4096)).await.unwrap();
        base.write(4096, SgList::zeroed(4096)).await.unwrap();
        base.finish_writing().await.unwrap();
        // In a layer that takes writes its clusters stay.
        let found = top.walk().find(0, 512).await.unwrap();
        assert_eq!((found.depth, found.len), (2, 512));
        let discarded = {
            let mid = mid.clone();
            start(&exec, async move { mid.discard(0, 4096).await.unwrap() }).await
        };
        assert!(!discarded.get());
        drop(found);
        rest().await;
        assert!(discarded.get());
        // One that takes none becomes writable later; what is only passed on the way is held by
        // nobody.
        let found = top.walk().find(4096, 512).await.unwrap();
        assert_eq!(found.depth, 3);
        mid.write_zeroes(8192, 4096, true).await.unwrap();
        mid.write_zeroes(4096, 512, true).await.unwrap();
        let prepared = {
            let base = base.clone();
            start(&exec, async move { base.prepare_writing().await.unwrap() }).await
        };
        assert!(!prepared.get());
        drop(found);
        rest().await;
        assert!(prepared.get());
    });
}

/// A guest with `sectors` of the disk to itself: what it reads is what it has written.
async fn guest(top: Rc<Node>, mut random: u64, sectors: std::ops::Range<u64>, mut model: Vec<u8>) {
    let start = sectors.start * 512;
    for _ in 0..40 {
        let sector = below(&mut random, sectors.end - sectors.start - 8);
        let (at, len) = (sector * 512, (1 + below(&mut random, 8)) * 512);
        let part = &mut model[at as usize..][..len as usize];
        match below(&mut random, 4) {
            0 => {
                part.fill(0);
                top.write_zeroes(start + at, len, true).await.unwrap();
            }
            1 => {
                let byte = 3 + below(&mut random, 200) as u8;
                part.fill(byte);
                let data = SgList::from_vec(vec![byte; len as usize]);
                top.write(start + at, data).await.unwrap();
            }
            _ => {
                let data = SgList::zeroed(len as usize);
                top.read(start + at, data.clone()).await.unwrap();
                assert!(data.to_vec() == *part, "a guest reads other bytes");
            }
        }
    }
    let data = SgList::zeroed(model.len());
    top.read(start, data.clone()).await.unwrap();
    assert!(data.to_vec() == model, "the disk shows other bytes");
}

#[test]
fn a_guest_goes_on_while_layers_below_it_are_merged() {
    seeds(60, async |exec, seed| {
        let mut random = seed;
        let files = Files::new(&chain(&mut random).await, seed);
        let top = files.open("top", &["top"]).await;
        let (mid, base) = (layer(&top, 1), layer(&top, 2));
        let (merged, shown) = (read_all(&mid).await, read_all(&top).await);
        let half = SECTORS / 2;
        let mut tasks = Vec::new();
        for sectors in [0..half, half..SECTORS] {
            let model = shown[(sectors.start * 512) as usize..][..(half * 512) as usize].to_vec();
            let guest = guest(top.clone(), seed + sectors.start, sectors, model);
            tasks.push(start_only(&exec, guest));
        }
        let merge = {
            let (mid, base) = (mid.clone(), base.clone());
            async move {
                base.prepare_writing().await.unwrap();
                commit::commit(&mid, &base, None, &|_, _| ()).await.unwrap();
                base.finish_writing().await.unwrap();
            }
        };
        tasks.push(start_only(&exec, merge));
        let mut left = 1_000_000;
        while !tasks.iter().all(|done| done.get()) {
            left -= 1;
            assert!(left > 0, "they wait for each other");
            yield_now().await;
        }
        assert_shows(&base, &merged).await;
        assert_clean(&files, "base").await;
    });
}

fn start_only(exec: &Executor, work: impl Future<Output = ()> + 'static) -> Rc<Cell<bool>> {
    let done = Rc::new(Cell::new(false));
    let mark = done.clone();
    exec.spawn(Queue::Guest, async move {
        work.await;
        mark.set(true);
    });
    done
}

/// Real files: `top`, a qcow2 image, on `base`, of `format`, both with the byte 1.
async fn real_chain(exec: &Rc<Executor>, directory: &Path, format: Format) -> Rc<Node> {
    let backing = |name: &str| {
        Some(Backing {
            name: name.into(),
            format: Some(format.to_string()),
        })
    };
    let base = directory.join("base");
    match format {
        Format::Raw => File::create(&base).unwrap().set_len(1 << 20).unwrap(),
        _ => {
            let options = CreateOptions {
                size: 1 << 20,
                ..CreateOptions::default()
            };
            create_image(exec, &base, options).await.unwrap();
        }
    }
    let options = CreateOptions {
        size: 1 << 20,
        backing: backing("base"),
        ..CreateOptions::default()
    };
    let path = directory.join("top");
    create_image(exec, &path, options).await.unwrap();
    let options = ImageOptions {
        format: Some(Format::Qcow2),
        ..ImageOptions::default()
    };
    Opener::new(exec.clone())
        .open(&path, &options)
        .await
        .unwrap()
}

fn opens(exec: &Executor, path: &Path, read_only: bool) -> Option<FileStorage> {
    let options = FileOptions {
        read_only,
        ..FileOptions::default()
    };
    match FileStorage::open(exec, path, options) {
        Ok(file) => Some(file),
        Err(Error::Locked { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_real_file_is_locked_for_writing_and_back() {
    for format in [Format::Raw, Format::Qcow2] {
        let directory = tempfile::tempdir().unwrap();
        let exec = Executor::new().unwrap();
        let (exec, path) = (exec.clone(), directory.path().to_owned());
        exec.block_on({
            let exec = exec.clone();
            async move {
                let top = real_chain(&exec, &path, format).await;
                let (base, file) = (layer(&top, 1), path.join("base"));
                let before = std::fs::read(&file).unwrap();
                // Somebody else reads it: it cannot be written.
                let other = opens(&exec, &file, true).expect("may be read");
                let error = base.prepare_writing().await.unwrap_err();
                assert!(matches!(error, Error::Locked { .. }), "{error}");
                assert!(!base.is_writable());
                assert_eq!(std::fs::read(&file).unwrap(), before);
                drop(other);
                assert!(opens(&exec, &file, true).is_some(), "readers are let in");
                assert!(opens(&exec, &file, false).is_none(), "writers are not");
                base.prepare_writing().await.unwrap();
                assert!(opens(&exec, &file, true).is_none(), "nobody is let in");
                let data = SgList::from_vec(vec![7; 4096]);
                base.write(4096, data.clone()).await.unwrap();
                let read = SgList::zeroed(4096);
                top.read(4096, read.clone()).await.unwrap();
                assert!(read.to_vec() == data.to_vec());
                base.finish_writing().await.unwrap();
                assert!(opens(&exec, &file, true).is_some(), "readers are let in");
                assert!(opens(&exec, &file, false).is_none(), "writers are not");
                top.image().close().await.unwrap();
                base.image().close().await.unwrap();
                let again = opens(&exec, &file, true).expect("nobody uses it");
                assert!(!again.is_empty());
            }
        });
    }
}

#[test]
fn a_file_that_others_may_be_writing_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raw");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let exec = Executor::new().unwrap();
    exec.block_on({
        let exec = exec.clone();
        async move {
            let options = ImageOptions {
                format: Some(Format::Raw),
                read_only: true,
                force_share: true,
                ..ImageOptions::default()
            };
            let node = Opener::new(exec).open(&path, &options).await.unwrap();
            let error = node.prepare_writing().await.unwrap_err().to_string();
            assert!(error.contains("force-share"), "{error}");
            assert!(!node.is_writable());
        }
    });
}
