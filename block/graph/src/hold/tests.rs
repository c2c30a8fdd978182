use super::{Hold, Purpose};
use crate::bench::{Bench, layer};

const STREAM: Purpose = Purpose::Job("stream");

#[test]
fn who_is_refused_is_told_what_stands_in_the_way() {
    let bench = Bench::default();
    let disk = bench.disk("virtio0", &["C", "B", "A"]);
    let refused = |layers: &[&str]| {
        let layers = layers.iter().map(|name| layer(&disk, name));
        Hold::take(&disk, layers, Purpose::Snapshot)
            .err()
            .map(|busy| busy.to_string())
    };
    let busy = |node| {
        let why = "is busy: block device is in use by block job: stream";
        Some(format!("Node '{node}' {why}"))
    };
    let hold = Hold::take(&disk, [layer(&disk, "C"), layer(&disk, "B")], STREAM).unwrap();
    assert_eq!(refused(&["C"]), busy("virtio0"));
    assert_eq!(refused(&["B"]), busy("B"));
    // All or none: "A" is free afterwards.
    assert_eq!(refused(&["A", "B"]), busy("B"));
    assert_eq!(refused(&["A"]), None);
    drop(hold);
    assert_eq!(refused(&["C", "B", "A"]), None);
}

#[test]
fn a_layer_made_on_the_way_is_held_until_the_end() {
    let bench = Bench::default();
    let disk = bench.disk("", &["A"]);
    let hold = Hold::take(&disk, [disk.root()], Purpose::Resize).unwrap();
    let made = bench.layer("B", 512, true);
    assert!(!hold.covers(&made));
    hold.add(made.clone());
    assert!(hold.covers(&made) && hold.covers(&disk.root()));
    let take = |layer| {
        Hold::take(&disk, [layer], STREAM)
            .err()
            .map(|busy| busy.to_string())
    };
    let busy = |node| {
        let why = "is busy: block device is in use by resize";
        Some(format!("Node '{node}' {why}"))
    };
    assert_eq!(take(made.clone()), busy("B"));
    // A disk without an id is called by its top.
    assert_eq!(take(disk.root()), busy("A"));
    drop(hold);
    assert_eq!((take(made), take(disk.root())), (None, None));
}
