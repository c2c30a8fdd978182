use super::{Busy, Hold, Purpose};
use crate::bench::{Bench, layer};

const STREAM: Purpose = Purpose::Job {
    kind: "stream",
    id: None,
};

#[test]
fn a_refusal_names_what_stands_in_the_way() {
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

#[test]
fn what_is_kept_is_kept_for_many_and_changed_by_none() {
    let bench = Bench::default();
    let disk = bench.disk("virtio0", &["D", "C", "B", "A"]);
    let layers =
        |names: &[&str]| -> Vec<_> { names.iter().map(|name| layer(&disk, name)).collect() };
    let export = |id: &str| Purpose::Export(id.to_owned());
    let text = |busy: Busy| busy.to_string();
    let first = Hold::keep(&disk, layers(&["B", "A"]), export("e1")).unwrap();
    let second = Hold::keep(&disk, layers(&["A"]), export("e2")).unwrap();
    let exported = |node, id| {
        format!("Node '{node}' is busy: it is exported as '{id}': delete that export first")
    };
    let job = |changed: &[&str], kept: &[&str]| {
        let hold = Hold::take(&disk, layers(changed), STREAM);
        hold.and_then(|hold| hold.and_keep(&disk, layers(kept)))
            .map_err(text)
    };
    // The first from the top is named.
    let all = ["D", "C", "B", "A"];
    assert_eq!(job(&all, &[]).err(), Some(exported("B", "e1")));
    // Nothing was left held.
    let running = job(&["D", "C"], &["B"]).unwrap();
    assert!(running.covers(&layer(&disk, "B")) && !running.covers(&layer(&disk, "A")));
    // What the job keeps, others may keep, too; what it changes they may not.
    let third = Hold::keep(&disk, layers(&["B", "A"]), export("e3")).unwrap();
    let busy = Hold::keep(&disk, layers(&["C", "B", "A"]), export("e4"));
    assert_eq!(
        busy.map_err(text).err().unwrap(),
        "Node 'C' is busy: block device is in use by block job: stream"
    );
    drop((first, third));
    let by_job = "Node 'B' is busy: block device is in use by block job: stream";
    assert_eq!(job(&["B"], &[]).err().unwrap(), by_job);
    drop(running);
    assert_eq!(job(&all, &[]).err(), Some(exported("A", "e2")));
    drop(second);
    assert!(job(&all, &[]).is_ok());
}

#[test]
fn a_job_with_a_name_of_its_own_is_named() {
    let bench = Bench::default();
    let disk = bench.disk("virtio0", &["B", "A"]);
    let refused = || {
        let layers = [layer(&disk, "B")];
        let busy = Hold::take(&disk, layers, Purpose::Snapshot).err();
        busy.unwrap().to_string()
    };
    let words = "Node 'virtio0' is busy: block device is in use by block job: commit";
    let hold_for = |id| {
        let purpose = Purpose::job("commit", id, &disk);
        Hold::take(&disk, [layer(&disk, "B")], purpose).unwrap()
    };
    let hold = hold_for("virtio0");
    assert_eq!(refused(), words);
    drop(hold);
    let _hold = hold_for("nightly");
    assert_eq!(refused(), format!("{words} 'nightly'"));
}
