//! Commits.

use std::{path::Path, rc::Rc};

use super::support::*;
use crate::{Node, commit};

/// A chain of three layers with data in each, `top` above `mid` above `base`.
async fn chain(random: &mut u64) -> Bytes {
    let mut bytes = Bytes::new();
    let sizes = [0; 3].map(|_| (64 + below(random, 100)) * 512);
    let mut lower = None;
    for (name, size) in ["base", "mid", "top"].into_iter().zip(sizes) {
        create(&mut bytes, name, Kind::random(random), size, lower).await;
        lower = Some(name);
        let files = Files::new(&bytes, 0);
        let node = files.open(name, &[name]).await;
        scribble(&node, random).await;
        node.image().close().await.unwrap();
        bytes = files.bytes();
    }
    bytes
}

fn layer(top: &Rc<Node>, name: &str) -> Rc<Node> {
    let is_it = |node: &Rc<Node>| node.path() == Path::new(name);
    top.chain().find(is_it).unwrap()
}

/// Commits `top` into the layer `base`, and empties it if that is the next one.
async fn run(files: &Files, base: &str) {
    let top = files.open("top", &["top", base]).await;
    let base = layer(&top, base);
    commit::commit(&top, &base, None, &|_, _| ()).await.unwrap();
    if Rc::ptr_eq(&top.backing().unwrap(), &base) {
        commit::make_empty(&top).await.unwrap();
    }
    top.image().close().await.unwrap();
    base.image().close().await.unwrap();
}

#[test]
fn a_power_cut_during_a_commit_changes_no_byte() {
    seeds(20, async |exec, seed| {
        let mut random = seed;
        let base = ["base", "mid"][seed as usize % 2];
        let bytes = chain(&mut random).await;
        let work = async move |files: &Files| run(files, base).await;
        let ended = async |files: &Files, bytes: &[u8]| assert_committed(files, base, bytes).await;
        power_cuts_change_no_byte(&exec, (&bytes, seed), 20, work, ended).await;
    });
}

async fn assert_committed(files: &Files, base: &str, expected: &[u8]) {
    files.check().await;
    let top = files.open("top", &[]).await;
    assert_shows(&top, expected).await;
    assert_eq!(is_empty(&top).await, base == "mid");
    let below = read_all(&layer(&top, base)).await;
    assert!(
        below[..expected.len()] == *expected,
        "not all has been committed"
    );
}
