use super::*;
use crate::qcow2::layout::geometry::HostCluster;

fn run(n: u64) -> HostRun {
    HostRun::one(HostCluster(n))
}

#[test]
fn clusters_wait_for_the_disk_and_for_those_who_know_them() {
    let freed = FreedClusters::default();
    let before = freed.operation();
    freed.push(run(1));
    let after = freed.operation();
    assert!(freed.take_releasable().is_empty(), "not on disk yet");
    let pending = freed.take_pending();
    freed.settle(pending);
    assert!(freed.take_releasable().is_empty(), "somebody may know it");
    drop(before);
    assert_eq!(freed.take_releasable(), [run(1)]);
    assert!(freed.is_empty());
    drop(after);
}

#[test]
fn what_was_not_written_is_pending_again() {
    let freed = FreedClusters::default();
    freed.push(run(1));
    let pending = freed.take_pending();
    freed.push(run(5));
    freed.restore(pending);
    let pending = freed.take_pending();
    assert_eq!(pending.len(), 2);
    freed.settle(pending);
    assert_eq!(freed.take_releasable().len(), 2);
}

#[test]
fn adjacent_clusters_go_together_when_the_last_of_them_may() {
    let freed = FreedClusters::default();
    freed.push(run(1));
    let knows_the_second = freed.operation();
    freed.push(run(2));
    freed.settle(freed.take_pending());
    assert!(freed.take_releasable().is_empty());
    drop(knows_the_second);
    let whole = HostRun {
        first: HostCluster(1),
        count: 2,
    };
    assert_eq!(freed.take_releasable(), [whole]);
}
