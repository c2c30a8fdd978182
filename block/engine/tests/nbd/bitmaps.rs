//! `qemu:dirty-bitmap` contexts.

use std::rc::Rc;

use strata_block::nbd::Export;
use strata_format::{bitmap::DirtyBitmap, names::Namespace};

use crate::{
    extended::{BLOCK_STATUS, chunk, enter, send},
    hand::Client,
    served::{Served, run_client},
};

const SIZE: u64 = 8 << 40;
const DIRTY: [(u64, u64); 3] = [(65536, 65536), (1 << 30, 5 << 30), (SIZE - 65536, 65536)];

/// A disk of 8 TiB with a bitmap, as the export `marked`.
fn served() -> Served {
    let served = Served::raw(SIZE);
    served.on_thread(|_, server| {
        let bitmap = |name: &str, dirty: &[(u64, u64)]| {
            let name = Namespace::default().reserve(name).unwrap();
            let bitmap = Rc::new(DirtyBitmap::new(name, 16, SIZE, false));
            dirty.iter().for_each(|(at, len)| bitmap.set(*at..at + len));
            bitmap.hold()
        };
        let disk = server.exports()[0].disk.clone();
        let export = Export {
            name: "marked".into(),
            description: None,
            disk,
            writable: true,
            bitmaps: vec![bitmap("b", &DIRTY), bitmap("clean", &[])],
        };
        server.add(export).unwrap();
    });
    served
}

/// The ranges of nbdinfo's map that are dirty.
fn dirty(map: &str) -> Vec<(u64, u64)> {
    let runs: Vec<serde_json::Value> = serde_json::from_str(map).unwrap();
    let dirty = runs.iter().filter(|run| run["type"] == 1);
    let number = |run: &serde_json::Value, name: &str| run[name].as_u64().unwrap();
    dirty
        .map(|run| (number(run, "offset"), number(run, "length")))
        .collect()
}

#[test]
fn nbdinfo_and_qemu_img_see_what_is_dirty() {
    let served = served();
    let uri = served.uri("marked");
    let map = |name: &str| {
        let context = format!("--map=qemu:dirty-bitmap:{name}");
        run_client("nbdinfo", &["--json", &context, &uri])
    };
    assert_eq!(dirty(&map("b")), DIRTY);
    assert_eq!(dirty(&map("clean")), []);
    let info = run_client("nbdinfo", &["--json", &uri]);
    for context in ["qemu:dirty-bitmap:b", "qemu:dirty-bitmap:clean"] {
        assert!(info.contains(context), "{info}");
    }
    let plain = run_client("nbdinfo", &["--json", &served.uri("disk")]);
    assert!(!plain.contains("dirty-bitmap"), "{plain}");
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=marked,\
         x-dirty-bitmap=qemu:dirty-bitmap:b",
        served.path("nbd.sock")
    );
    let args = ["map", "--output=json", "--image-opts", &options];
    let runs: Vec<serde_json::Value> =
        serde_json::from_str(&run_client("qemu-img", &args)).unwrap();
    // QEMU shows what is dirty as no data.
    let seen = runs.iter().filter(|run| run["data"] == false);
    let seen: Vec<_> = seen
        .map(|run| {
            (
                run["start"].as_u64().unwrap(),
                run["length"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, DIRTY);
}

#[test]
fn extended_replies_carry_runs_of_64_bits() {
    let served = served();
    let mut client = Client::greeted(&served);
    enter(&mut client, "marked", "qemu:dirty-bitmap:b", 2);
    send(&mut client, BLOCK_STATUS, 0, 0, SIZE, &[]);
    let (kind, status) = chunk(&mut client, 0);
    assert_eq!((kind, &status[..4]), (6, &[0, 0, 0, 2][..]));
    let runs: Vec<_> = status[8..]
        .chunks(16)
        .map(|run| {
            let word = |at: usize| u64::from_be_bytes(run[at..at + 8].try_into().unwrap());
            (word(0), word(8))
        })
        .collect();
    let mut expected = Vec::new();
    let mut at = 0;
    for (start, len) in DIRTY {
        expected.extend([(start - at, 0), (len, 1)]);
        at = start + len;
    }
    assert_eq!(runs, expected);
}
