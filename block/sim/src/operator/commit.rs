//! Commits of layers in the middle, while guests write to the top.

use strata_block::api::{BlockCommit, Cmd};
use strata_graph::Node;

use super::{DISK, JOB, Operator};

impl Operator {
    /// Starts to commit a layer below the top into one further down, where there are such layers.
    pub async fn commit(&self) {
        let root = self.engine.find_disk(DISK).unwrap().root();
        let layers: Vec<_> = root.chain().collect();
        let Some(most) = (layers.len() as u64)
            .checked_sub(2)
            .filter(|most| *most > 0)
        else {
            return;
        };
        let top = 1 + self.below(most) as usize;
        let base = top + 1 + self.below((layers.len() - top - 1) as u64) as usize;
        if may_not_grow(&layers[base]).await && layers[base].size() < layers[top].size() {
            return;
        }
        self.marks.set(self.marks.get() + 1);
        let between = layers[top + 1..base].iter();
        let between = between.map(|layer| layer.path().to_owned());
        self.changed_below.borrow_mut().extend(between);
        let on_error = self.on_error();
        let auto_finalize = self.below(2) == 0;
        self.must(Cmd::BlockCommit(Box::new(BlockCommit {
            job_id: Some(JOB.to_owned()),
            device: DISK.to_owned(),
            top_node: Some(layers[top].name().to_owned()),
            base_node: Some(layers[base].name().to_owned()),
            on_error: Some(on_error),
            auto_finalize: Some(auto_finalize),
            ..BlockCommit::default()
        })))
        .await;
    }
}

/// Images of version 2 with internal snapshots have no other size.
async fn may_not_grow(layer: &Node) -> bool {
    match layer.image().as_qcow2() {
        Some(image) if image.version() == 2 => {
            let snapshots = image.snapshots().await;
            snapshots.is_ok_and(|snapshots| !snapshots.is_empty())
        }
        _ => false,
    }
}
