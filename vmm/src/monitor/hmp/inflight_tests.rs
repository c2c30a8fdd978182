//! The text of `info inflight`.

use std::time::Duration;

use strata_block::api::{DiskInflight, Inflight, LayerInflight, Queue, RangeInflight, TaskInfo};

use super::inflight::show;

#[test]
fn what_is_under_way_is_listed_with_what_it_waits_for() {
    let range = |range, exclusive, waits| RangeInflight {
        range,
        exclusive,
        waits,
    };
    let top = LayerInflight {
        node_name: "#block012".to_owned(),
        ranges: vec![
            range(0x1_0000..0x2_0000, true, false),
            range(0..u64::MAX, true, true),
        ],
        readers: 0,
        claims: vec![0x1_0000..0x2_0000, 0x4_0000..0x6_0000],
        waiting_for_claims: 1,
        locks: vec![("refcounts".to_owned(), 2)],
    };
    let disk = |id: &str, layers| DiskInflight {
        id: id.to_owned(),
        layers,
        ..DiskInflight::default()
    };
    let busy = DiskInflight {
        closed: true,
        inside: 2,
        at_gate: 1,
        work: 65536,
        held: 1,
        ..disk("root", vec![top])
    };
    let task = |id, name: &str, busy| TaskInfo {
        id,
        name: name.to_owned(),
        queue: Queue::Guest,
        age: Duration::from_millis(12_345),
        polls: 3,
        busy,
    };
    let found = Inflight {
        disks: vec![busy, disk("data", Vec::new())],
        tasks: vec![
            task(7, "root: flush", None),
            task(9, "job root", Some(Duration::from_millis(250))),
        ],
    };
    let expected = "\
root: gate closed, 2 inside, 1 wait; works on 65536 bytes; 1 failed and held
    #block012:
        range 0x10000..0x20000 exclusive
        range 0x0 to the end exclusive, waits
        claim 0x10000..0x20000
        claim 0x40000..0x60000
        1 wait until a claim is released
        lock 'refcounts', 2 wait
data: gate open, 0 inside
Tasks, the oldest first:
    7 root: flush: 12.345 s, polled 3 times
    9 job root: 12.345 s, polled 3 times, busy 0.250 s
";
    assert_eq!(show(&found), expected);
    let nothing = Inflight {
        disks: Vec::new(),
        tasks: Vec::new(),
    };
    assert_eq!(show(&nothing), "Tasks, the oldest first:\n    none\n");
}
