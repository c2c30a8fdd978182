//! What is under way on a disk, for people who look for what does not end.

use strata_format::under_way::UnderWay;

use super::{Backend, GuestDisk, Node, inflight::RangeUnderWay};

/// What is under way on one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUnderWay {
    /// The disk's id.
    pub id: String,
    /// No request goes in: the graph is being edited, or waits to be.
    pub closed: bool,
    /// Requests that have gone in.
    pub inside: usize,
    /// Tasks that wait at the gate, to go in or until the others have left.
    pub at_gate: usize,
    /// Bytes that the requests work on.
    pub work: u64,
    /// Requests that wait until they may work.
    pub waiting_for_work: usize,
    /// Requests that have failed and wait for another try.
    pub held: usize,
    /// Its layers on which something is under way, from the top down.
    pub layers: Vec<LayerUnderWay>,
}

/// What is under way on one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUnderWay {
    /// The layer's name in the monitor.
    pub node_name: String,
    /// The ranges in flight, the oldest first.
    pub ranges: Vec<RangeUnderWay>,
    /// Readers of a layer that takes no writes.
    pub readers: usize,
    /// What is held within the image.
    pub image: UnderWay,
}

impl Backend {
    /// What is under way on the disk.
    pub fn look_inside(&self) -> DiskUnderWay {
        let held = self.held();
        DiskUnderWay {
            held,
            ..self.disk().look_inside()
        }
    }
}

impl GuestDisk {
    fn look_inside(&self) -> DiskUnderWay {
        let (gate, work) = (self.gate(), self.work());
        let root = self.root();
        DiskUnderWay {
            id: self.options().id.clone(),
            closed: gate.is_closed(),
            inside: gate.inside(),
            at_gate: gate.waiting(),
            work: work.taken(),
            waiting_for_work: work.waiting(),
            held: 0,
            layers: root.chain().filter_map(|node| node.look_inside()).collect(),
        }
    }
}

impl Node {
    /// What is under way on the layer; `None` if that is nothing.
    fn look_inside(&self) -> Option<LayerUnderWay> {
        let layer = LayerUnderWay {
            node_name: self.name().to_owned(),
            ranges: self.in_flight().ranges(),
            readers: self.readers().len(),
            image: self.image().under_way(),
        };
        let busy =
            !layer.ranges.is_empty() || layer.readers > 0 || layer.image != UnderWay::default();
        busy.then_some(layer)
    }
}
