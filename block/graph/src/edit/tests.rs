use std::{cell::Cell, rc::Rc};

use strata_exec::Queue;

use super::{Edit, EditError};
use crate::{
    GuestDisk, Hold, Purpose,
    bench::{Bench, SIZE, layer, names},
    chain::MAX_LAYERS,
};

fn hold_all(disk: &GuestDisk) -> Hold {
    let purpose = Purpose::job("test", "job", disk);
    Hold::take(disk, disk.root().chain(), purpose).unwrap()
}

/// Drains and applies; returns the names of the layers that are not needed any more.
fn apply(bench: &Bench, edit: &Edit<'_>) -> Result<Vec<String>, EditError> {
    // Nothing is under way, so that it need not wait.
    let drained = std::pin::pin!(edit.drain());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(drained) = std::future::Future::poll(drained, &mut cx) else {
        panic!("a request is under way");
    };
    assert_eq!(bench.exec.task_count(), 0);
    let gone = drained.apply()?;
    Ok(gone.iter().map(|node| node.name().to_owned()).collect())
}

#[test]
fn an_overlay_goes_on_top_and_makes_the_old_top_read_only() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["B", "A"]);
    let hold = hold_all(&disk);
    let overlay = bench.layer("C", SIZE, true);
    hold.add(overlay.clone());
    let edit = Edit::default().overlay(&disk, &overlay, &hold);
    assert!(disk.root().is_writable());
    assert_eq!(apply(&bench, &edit), Ok(Vec::new()));
    assert_eq!(names(&disk), ["C", "B", "A"]);
    assert!(disk.root().is_writable() && !layer(&disk, "B").is_writable());
}

#[test]
fn layers_between_go_and_are_returned() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["D", "C", "B", "A"]);
    let hold = hold_all(&disk);
    let base = layer(&disk, "A");
    let edit = Edit::default().backing(&disk, &disk.root(), Some(&base), &hold);
    assert_eq!(
        apply(&bench, &edit),
        Ok(vec!["C".to_owned(), "B".to_owned()])
    );
    assert_eq!(names(&disk), ["D", "A"]);
    let edit = Edit::default().backing(&disk, &disk.root(), None, &hold);
    assert_eq!(apply(&bench, &edit), Ok(vec!["A".to_owned()]));
    assert_eq!(names(&disk), ["D"]);
}

#[test]
fn several_disks_change_together_or_not_at_all() {
    let bench = Bench::default();
    let disks = [("one", ["B", "A"]), ("two", ["Z", "Y"])];
    let [one, two] = disks.map(|(id, names)| bench.disk(id, &names));
    let [first, second] = [&one, &two].map(|disk| hold_all(disk));
    let overlay = bench.layer("C", SIZE, true);
    let larger = bench.layer("X", SIZE + 512, true);
    first.add(overlay.clone());
    second.add(larger.clone());
    let edit = Edit::default()
        .overlay(&one, &overlay, &first)
        .overlay(&two, &larger, &second);
    let sizes = EditError::Sizes {
        top: SIZE + 512,
        disk: SIZE,
    };
    assert_eq!(apply(&bench, &edit), Err(sizes));
    assert_eq!(
        (names(&one), names(&two)),
        (
            ["B", "A"].map(str::to_owned).to_vec(),
            ["Z", "Y"].map(str::to_owned).to_vec()
        )
    );
    assert!(one.root().is_writable() && two.root().is_writable());
    assert!(overlay.backing().is_none() && larger.backing().is_none());

    let other = bench.layer("W", SIZE, true);
    second.add(other.clone());
    let edit = Edit::default()
        .overlay(&one, &overlay, &first)
        .overlay(&two, &other, &second);
    assert_eq!(apply(&bench, &edit), Ok(Vec::new()));
    assert_eq!(names(&one), ["C", "B", "A"]);
    assert_eq!(names(&two), ["W", "Z", "Y"]);
}

#[test]
fn nothing_lies_below_itself() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["C", "B", "A"]);
    let hold = hold_all(&disk);
    let [b, a] = ["B", "A"].map(|name| layer(&disk, name));
    let edit = Edit::default().backing(&disk, &a, Some(&b), &hold);
    let cycle = edit.check().unwrap_err();
    let words = "Making 'B' a backing child of 'A' would create a cycle";
    assert_eq!(cycle.to_string(), words);
    assert_eq!(apply(&bench, &edit), Err(cycle));
    assert!(a.backing().is_none());
}

#[test]
fn a_file_has_one_writer_and_nobody_beside_it() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["B", "A"]);
    let hold = hold_all(&disk);
    // Another layer in the file of "B", which is written.
    let twice = bench.again("B", "E");
    hold.add(twice.clone());
    let edit = Edit::default().backing(&disk, &layer(&disk, "A"), Some(&twice), &hold);
    assert_eq!(edit.check(), Err(EditError::TwoWriters("E".to_owned())));
    // And on another disk's chain, changed in the same edit.
    let other = bench.disk("other", &["Z", "Y"]);
    let second = hold_all(&other);
    let (base, again) = (layer(&disk, "A"), bench.again("B", "F"));
    second.add(again.clone());
    let edit = Edit::default()
        .backing(&disk, &disk.root(), Some(&base), &hold)
        .backing(&other, &other.root(), Some(&again), &second);
    assert_eq!(edit.check(), Err(EditError::TwoWriters("F".to_owned())));
    // Two readers of "A" are in nobody's way.
    let reader = bench.again("A", "G");
    second.add(reader.clone());
    let edit = Edit::default()
        .backing(&disk, &disk.root(), Some(&base), &hold)
        .backing(&other, &other.root(), Some(&reader), &second);
    assert_eq!(edit.check(), Ok(()));
}

#[test]
fn only_what_is_held_is_changed() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["C", "B", "A"]);
    let top = Hold::take(&disk, [disk.root()], Purpose::Snapshot).unwrap();
    let base = layer(&disk, "A");
    let edit = Edit::default().backing(&disk, &disk.root(), Some(&base), &top);
    assert_eq!(edit.check(), Err(EditError::NotHeld("A".to_owned())));
    drop(top);
    let hold = hold_all(&disk);
    // The top has changed since the edit was made; then the layer is not in the chain any more.
    let stale = Edit::default().backing(&disk, &layer(&disk, "B"), None, &hold);
    let edit = Edit::default().backing(&disk, &disk.root(), Some(&base), &hold);
    assert_eq!(apply(&bench, &edit), Ok(vec!["B".to_owned()]));
    assert_eq!(
        apply(&bench, &stale),
        Err(EditError::NotHeld("B".to_owned()))
    );
    let overlay = bench.layer("D", SIZE, true);
    hold.add(overlay.clone());
    let stale = Edit::default().backing(&disk, &disk.root(), None, &hold);
    let edit = Edit::default().overlay(&disk, &overlay, &hold);
    assert_eq!(apply(&bench, &edit), Ok(Vec::new()));
    assert_eq!(
        apply(&bench, &stale),
        Err(EditError::NotHeld("C".to_owned()))
    );
    assert_eq!(names(&disk), ["D", "C", "A"]);
}

#[test]
fn what_lies_below_the_top_changes_under_another_one() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["D", "C", "B", "A"]);
    let root = disk.root();
    let below = Hold::take(
        &disk,
        root.chain().skip(1),
        Purpose::job("test", "job", &disk),
    )
    .unwrap();
    let base = layer(&disk, "A");
    let merge = Edit::default().backing(&disk, &layer(&disk, "C"), Some(&base), &below);
    let top = Hold::take(&disk, [disk.root()], Purpose::Snapshot).unwrap();
    let overlay = bench.layer("E", SIZE, true);
    top.add(overlay.clone());
    let snapshot = Edit::default().overlay(&disk, &overlay, &top);
    assert_eq!(apply(&bench, &snapshot), Ok(Vec::new()));
    assert_eq!(apply(&bench, &merge), Ok(vec!["B".to_owned()]));
    assert_eq!(names(&disk), ["E", "D", "C", "A"]);
}

#[test]
fn what_is_kept_for_an_edit_is_not_changed_by_it() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["D", "C", "B", "A"]);
    let layers =
        |names: &[&str]| -> Vec<_> { names.iter().map(|name| layer(&disk, name)).collect() };
    let base = layer(&disk, "A");
    for (changed, kept, not_held) in [
        (&["D", "B"][..], &["C", "A"][..], Some("C")),
        (&["C", "B"], &["D", "A"], Some("D")),
        (&["D", "C"], &["A"], Some("B")),
        (&["D", "C", "B"], &[], Some("A")),
        (&["D", "C", "B"], &["A"], None),
    ] {
        let hold = Hold::take(&disk, layers(changed), Purpose::job("test", "job", &disk));
        let hold = hold.unwrap().and_keep(&disk, layers(kept)).unwrap();
        let edit = Edit::default().backing(&disk, &disk.root(), Some(&base), &hold);
        let expected = not_held.map_or(Ok(()), |name| Err(EditError::NotHeld(name.to_owned())));
        assert_eq!(edit.check(), expected);
    }
    let hold = Hold::keep(&disk, [disk.root()], Purpose::Snapshot).unwrap();
    let overlay = bench.layer("E", SIZE, true);
    hold.add(overlay.clone());
    let edit = Edit::default().overlay(&disk, &overlay, &hold);
    assert_eq!(edit.check(), Err(EditError::NotHeld("D".to_owned())));
}

#[test]
fn a_chain_does_not_become_too_long() {
    let bench = Bench::default();
    let disk = bench.disk("disk", &["A"]);
    let mut below = None;
    for number in 0..MAX_LAYERS {
        let next = bench.layer(&format!("n{number}"), SIZE, false);
        next.set_backing_node(below);
        below = Some(next);
    }
    let hold = hold_all(&disk);
    let below = below.unwrap();
    hold.add(below.clone());
    let edit = Edit::default().backing(&disk, &disk.root(), Some(&below), &hold);
    let why = format!("Disk 'disk' has {MAX_LAYERS} layers: merge some of them first");
    assert_eq!(edit.check().unwrap_err().to_string(), why);
}

#[test]
fn an_edit_waits_for_the_requests_of_all_its_disks() {
    let bench = Bench::default();
    let [one, two] = [bench.disk("one", &["A"]), bench.disk("two", &["B"])];
    let (inside, applied) = (two.clone(), Rc::new(Cell::new(false)));
    let leave = Rc::new(strata_exec::sync::WaitQueue::default());
    let left = leave.clone();
    bench.exec.spawn(Queue::Guest, async move {
        let _pass = inside.gate().enter().await;
        left.wait().await;
    });
    let done = applied.clone();
    let [first, second] = [&one, &two].map(|disk| hold_all(disk));
    bench.exec.spawn(Queue::Guest, async move {
        let edit = Edit::default()
            .backing(&one, &one.root(), None, &first)
            .backing(&two, &two.root(), None, &second);
        edit.drain().await.apply().unwrap();
        done.set(true);
    });
    while bench.exec.poll().more_work_now {}
    assert!(!applied.get());
    leave.wake_all();
    while bench.exec.poll().more_work_now {}
    assert!(applied.get());
    assert_eq!(bench.exec.task_count(), 0);
}
