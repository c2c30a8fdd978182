//! Rebases.

use std::ffi::OsStr;

use strata_format::backing::Backing;

use super::support::*;
use crate::rebase;

/// An image `top` on `old` or on nothing, and `new`, which may lie on `old`, too.
async fn images(random: &mut u64) -> Bytes {
    let mut bytes = Bytes::new();
    let top_on = [Some("old"), Some("old"), None][below(random, 3) as usize];
    let new_on = [Some("old"), None][below(random, 2) as usize];
    for (name, backing) in [("old", None), ("new", new_on), ("top", top_on)] {
        let size = (64 + below(random, 100)) * 512;
        let kind = match Kind::random(random) {
            // Zeros over a backing file that has none.
            Kind::Qcow2 { cluster, .. } if name == "top" => Kind::Qcow2 {
                cluster,
                version: 3,
            },
            kind => kind,
        };
        create(&mut bytes, name, kind, size, backing).await;
        let files = Files::new(&bytes, 0);
        let node = files.open(name, &[name]).await;
        scribble(&node, random).await;
        node.image().close().await.unwrap();
        bytes = files.bytes();
    }
    bytes
}

async fn run(files: &Files, new: Option<&str>) {
    let top = files.open("top", &["top"]).await;
    let backing = match new {
        None => None,
        Some(name) => Some(files.open(name, &[]).await),
    };
    rebase::copy_differences(&top, backing.as_ref(), &|_, _| ())
        .await
        .unwrap();
    let name = new.map(|name| Backing {
        name: name.into(),
        format: Some("qcow2".to_owned()),
    });
    rebase::change_backing(&top, name).await.unwrap();
    top.image().close().await.unwrap();
}

#[test]
fn a_power_cut_during_a_rebase_changes_no_byte() {
    seeds(24, async |exec, seed| {
        let mut random = seed;
        let bytes = images(&mut random).await;
        let new = [Some("new"), None, Some("old")][seed as usize % 3];
        let work = async move |files: &Files| run(files, new).await;
        let ended = async |files: &Files, bytes: &[u8]| assert_rebased(files, new, bytes).await;
        power_cuts_change_no_byte(&exec, (&bytes, seed), 60, work, ended).await;
    });
}

async fn assert_rebased(files: &Files, new: Option<&str>, expected: &[u8]) {
    files.check().await;
    let top = files.open("top", &[]).await;
    let named = top.image().backing_name().map(|b| b.name);
    assert_eq!(named.as_deref(), new.map(OsStr::new));
    assert_shows(&top, expected).await;
}

#[test]
fn a_rebase_onto_a_layer_of_the_chain_writes_nothing_that_is_there() {
    seeds(2, async |_, seed| {
        let mut random = seed;
        let mut bytes = Bytes::new();
        let kind = Kind::Qcow2 {
            cluster: 4096,
            version: 3,
        };
        create(&mut bytes, "base", kind, 64 << 10, None).await;
        create(&mut bytes, "mid", kind, 64 << 10, Some("base")).await;
        create(&mut bytes, "top", kind, 64 << 10, Some("mid")).await;
        let files = Files::new(&bytes, 0);
        let base = files.open("base", &["base"]).await;
        scribble(&base, &mut random).await;
        base.image().close().await.unwrap();
        run(&files, Some("base")).await;
        assert!(is_empty(&files.open("top", &[]).await).await);
    });
}
