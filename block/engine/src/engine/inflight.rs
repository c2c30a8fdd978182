//! What HMP's `info inflight` says.

use strata_graph::{Backend, Node};

use super::Engine;
use crate::api::{DiskInflight, Inflight, LayerInflight, RangeInflight};

impl Engine {
    /// What is under way.
    pub(super) fn inflight(&self) -> Inflight {
        let backends = self.backends.borrow();
        Inflight {
            disks: backends
                .iter()
                .filter_map(|backend| of_disk(backend))
                .collect(),
            tasks: self.exec.tasks(),
        }
    }
}

/// `None` for a drive without a medium.
fn of_disk(backend: &Backend) -> Option<DiskInflight> {
    let disk = backend.disk()?;
    let (gate, work) = (disk.gate(), disk.work());
    Some(DiskInflight {
        id: disk.options().id.clone(),
        closed: gate.is_closed(),
        inside: gate.inside(),
        at_gate: gate.waiting(),
        work: work.taken(),
        waiting_for_work: work.waiting(),
        held: backend.held(),
        layers: disk
            .root()
            .chain()
            .filter_map(|node| of_layer(&node))
            .collect(),
    })
}

/// `None` if nothing is under way there.
fn of_layer(node: &Node) -> Option<LayerInflight> {
    let ranges = node.in_flight().ranges().into_iter();
    let image = node.image().under_way();
    let locks = image.locks.into_iter();
    let found = LayerInflight {
        node_name: String::new(),
        readers: node.reader_count(),
        ranges: ranges
            .map(|entry| RangeInflight {
                range: entry.range,
                exclusive: entry.exclusive,
                waits: entry.waits,
            })
            .collect(),
        claims: image.claims,
        waiting_for_claims: image.waiting_for_claims,
        locks: locks.map(|lock| (lock.name, lock.waiting)).collect(),
    };
    (found != LayerInflight::default()).then(|| LayerInflight {
        node_name: node.name().to_owned(),
        ..found
    })
}
