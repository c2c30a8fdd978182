//! The merged index against a walk that asks every layer.

use std::{cell::Cell, rc::Rc};

use strata_exec::{Queue, mem::SgList, yield_now};
use strata_format::extent::{Extent, ExtentKind};

use super::support::{Bytes, Files, Kind, below, create, read_all, scribble, seeds};
use crate::{Format, Node, Walk, index};

const SIZE: u64 = 3 << 20;

/// What asking every layer above `base` says: the extent, and the layer, from 1 for the top.
async fn asked(top: &Rc<Node>, base: Option<&Rc<Node>>, offset: u64, len: u64) -> (Extent, u32) {
    let (mut len, mut depth) = (len, 0);
    for layer in top.chain() {
        if base.is_some_and(|base| Rc::ptr_eq(base, &layer)) {
            break;
        }
        depth += 1;
        let extent = layer.extent(offset, len).await.unwrap();
        len = extent.len;
        if extent.kind != ExtentKind::Unallocated {
            return (extent, depth);
        }
    }
    let kind = ExtentKind::Unallocated;
    (Extent { len, kind }, 0)
}

/// What the index says of a range is what the layers say of each part of it.
async fn compare(top: &Rc<Node>, base: Option<&Rc<Node>>, offset: u64, len: u64) {
    let found = top.walk().above(base).find(offset, len).await.unwrap();
    assert!((1..=len).contains(&found.len));
    let layer = |depth: u32| top.chain().nth(depth as usize - 1).unwrap();
    let mut done = 0;
    while done < found.len {
        let (extent, depth) = asked(top, base, offset + done, found.len - done).await;
        assert_eq!(found.depth, depth, "at {offset} + {done}");
        let kind = match found.kind {
            ExtentKind::Data { host_offset } => ExtentKind::Data {
                host_offset: host_offset + done,
            },
            kind => kind,
        };
        assert_eq!(kind, extent.kind, "at {offset} + {done}");
        match &found.layer {
            Some(found) => assert!(Rc::ptr_eq(found, &layer(depth))),
            None => assert_eq!(depth, 0),
        }
        done += extent.len;
    }
}

async fn compare_some(top: &Rc<Node>, random: &mut u64) {
    for _ in 0..24 {
        let offset = 512 * below(random, SIZE / 512 + 64);
        let most = 1 << below(random, 23);
        let base = match below(random, 3) {
            0 => top.chain().nth(1 + below(random, 5) as usize),
            _ => None,
        };
        compare(top, base.as_ref(), offset, 1 + below(random, most)).await;
    }
}

/// Copies a range up from below, as a stream does.
async fn stream(top: &Rc<Node>, random: &mut u64) {
    let cluster = top.cluster_size();
    let start = below(random, top.size() / cluster) * cluster;
    let len = (cluster * (1 + below(random, 4))).min(top.size() - start);
    let data = SgList::zeroed(len as usize);
    top.read_backing(start, data.clone()).await.unwrap();
    let _entry = top.enter_exclusive(start, len).await.unwrap();
    top.write_if_unallocated(start, data).await.unwrap();
}

/// Writes to a layer below the top, as a live commit does.
async fn commit(layer: &Rc<Node>, random: &mut u64) {
    layer.prepare_writing().await.unwrap();
    scribble(layer, random).await;
    if below(random, 2) == 0 {
        let size = 512 * (1 + below(random, SIZE / 512));
        if size >= layer.size() {
            layer.resize(size).await.unwrap();
        }
    }
    layer.finish_writing().await.unwrap();
}

/// One change of the chain, of any kind.
async fn change(top: &mut Rc<Node>, overlays: &mut Vec<Rc<Node>>, random: &mut u64) {
    let layers: Vec<_> = top.chain().collect();
    let lower = layers[1 + below(random, layers.len() as u64 - 1) as usize].clone();
    match below(random, 10) {
        0..=2 => scribble(top, random).await,
        3 => {
            let start = 512 * below(random, top.size() / 512);
            let len = (top.size() - start).min(1 << 18);
            top.discard(start, len).await.unwrap();
        }
        4 | 5 => stream(top, random).await,
        6 => commit(&lower, random).await,
        7 => {
            let size = SIZE - 512 * below(random, 300);
            if size >= top.size() || top.format() == Format::Qcow2 {
                top.resize(size).await.unwrap();
            }
        }
        8 => {
            if let Some(overlay) = overlays.pop() {
                top.set_read_only();
                overlay.set_backing_node(Some(top.clone()));
                *top = overlay;
            }
        }
        _ => {
            // A layer in the middle leaves the chain.
            if layers.len() > 3 {
                let upper = &layers[below(random, layers.len() as u64 - 2) as usize];
                let next = upper.backing().and_then(|below| below.backing());
                upper.set_backing_node(next);
            }
        }
    }
}

async fn check_changes(mut random: u64, exec: Rc<strata_exec::Executor>) {
    index::limit_pages([1, 3, 1 << 14][below(&mut random, 3) as usize]);
    let (mut bytes, mut lower) = (Bytes::new(), None);
    let names = ["0", "1", "2", "3", "4", "5", "6", "7"];
    for name in names {
        let size = SIZE - 512 * below(&mut random, 40) * below(&mut random, 40);
        let kind = match below(&mut random, 3) {
            0 => Kind::Qcow2 {
                cluster: 65536,
                version: 3,
            },
            _ => Kind::random(&mut random),
        };
        create(&mut bytes, name, kind, size.next_multiple_of(512), lower).await;
        lower = Some(name);
    }
    let files = Files::new(&bytes, random);
    let chain = files.open("4", &names[..5]).await;
    for layer in chain.chain().collect::<Vec<_>>() {
        scribble(&layer, &mut random).await;
    }
    for layer in chain.chain().skip(1).collect::<Vec<_>>() {
        layer.finish_writing().await.unwrap();
    }
    let mut overlays = Vec::new();
    for name in &names[5..] {
        overlays.push(files.open_layer(name, &names).await);
    }
    let (shared, stop) = (
        Rc::new(std::cell::RefCell::new(chain.clone())),
        Rc::new(Cell::new(false)),
    );
    // Others fill the index while the chain changes.
    for seed in 0..2 {
        let (shared, stop, mut random) = (shared.clone(), stop.clone(), random + 99 * seed);
        exec.spawn(Queue::Guest, async move {
            while !stop.get() {
                let walk: Walk<'_> = shared.borrow().walk_below();
                let offset = 512 * below(&mut random, SIZE / 512);
                drop(walk.find(offset, 4096).await.unwrap());
                yield_now().await;
            }
        });
    }
    let mut top = chain;
    for _ in 0..40 {
        compare_some(&top, &mut random).await;
        change(&mut top, &mut overlays, &mut random).await;
        shared.replace(top.clone());
    }
    compare_some(&top, &mut random).await;
    stop.set(true);
    // What is read is what the layers hold: once with all that is known, once anew.
    let known = read_all(&top).await;
    index::forget();
    assert!(known == read_all(&top).await);
}

#[test]
fn the_index_says_what_the_layers_say_whatever_changes() {
    seeds(30, |exec, seed| check_changes(seed + 1, exec));
}

#[test]
fn memory_is_bounded_and_what_was_forgotten_is_found_again() {
    seeds(1, async |_, _| {
        index::limit_pages(4);
        let kind = Kind::Qcow2 {
            cluster: 4096,
            version: 3,
        };
        let (mut bytes, mut lower) = (Bytes::new(), None);
        for name in ["base", "mid", "top"] {
            create(&mut bytes, name, kind, SIZE, lower).await;
            lower = Some(name);
        }
        let files = Files::new(&bytes, 1);
        let top = files.open("top", &["base"]).await;
        let base = top.chain().last().unwrap();
        let data = (0..SIZE).map(|n| (n / 512 % 251) as u8).collect::<Vec<_>>();
        base.write(0, SgList::from_vec(data.clone())).await.unwrap();
        base.finish_writing().await.unwrap();
        for _ in 0..2 {
            for (n, expected) in data.chunks(4096).enumerate() {
                let read = SgList::zeroed(4096);
                top.read(n as u64 * 4096, read.clone()).await.unwrap();
                assert!(read.to_vec() == expected);
            }
            assert_eq!(index::pages(), 4);
        }
    });
}
