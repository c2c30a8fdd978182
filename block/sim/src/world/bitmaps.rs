//! Persistent dirty bitmaps: whoever copies what they call dirty has all that has changed.

use std::{path::Path, rc::Rc};

use strata_format::bitmap::DirtyBitmap;
use strata_graph::{
    Format, Node,
    bitmaps::{BitmapChange, BitmapPlan},
};

use super::{World, offline::Offline};
use crate::model::SECTOR;

/// The name of every bitmap.
const NAME: &str = "changes";

/// The bitmap of an image.
pub(super) struct Tracked {
    /// What the layer showed, with all below it, when the bitmap was made; `None` when that has
    /// changed otherwise than by what is written to the layer.
    shown: Option<Vec<u8>>,
    /// A crash has left it in use: it may only be removed.
    lost: bool,
}

impl World {
    /// Sees to it that the top has a bitmap that records, and that no layer has one that is lost.
    pub(super) fn renew_bitmaps(&mut self) {
        self.short_of_room = false;
        if !self.open.bitmaps {
            return;
        }
        for layer in 0..self.chain.0.len() {
            let path = self.chain.0[layer].0.clone();
            if self.bitmaps.get(&path).is_some_and(|tracked| tracked.lost) {
                self.change_bitmap(layer, BitmapChange::Remove);
                self.bitmaps.remove(&path);
            }
        }
        let path = self.chain.top().0.clone();
        if self.can_have_bitmap(&path) && !self.bitmaps.contains_key(&path) {
            let shown = Some(self.read_at_rest());
            let add = BitmapChange::Add {
                granularity: Some(512 << self.random.below(8)),
                persistent: true,
                disabled: false,
            };
            self.change_bitmap(0, add);
            let lost = false;
            self.bitmaps.insert(path, Tracked { shown, lost });
        }
    }

    /// Whether the top is a qcow2 image of version 3.
    fn can_have_bitmap(&self, path: &Path) -> bool {
        self.chain.top().1 == Format::Qcow2 && self.files[path].first_sector()[7] == 3
    }

    fn change_bitmap(&mut self, layer: usize, change: BitmapChange) {
        let offline = self.offline();
        let node = offline.open_layer(self, layer, false);
        offline.exec.block_on(async move {
            let plan = BitmapPlan::new(&node, "layer", NAME, change).unwrap();
            plan.announce().await.unwrap();
            plan.carry_out();
            node.image().close().await.unwrap();
        });
        self.files = offline.directory.durable();
    }

    /// The layers above the base of a commit, but for the top, show something else now.
    pub(super) fn bitmaps_miss_a_commit(&mut self, above: usize) {
        let between = self.chain.0[1..above].iter();
        let mut changed = self.changed_below.borrow_mut();
        changed.extend(between.map(|(path, _)| path.clone()));
    }

    fn forget_what_has_changed(&mut self) {
        for path in self.changed_below.take() {
            if let Some(tracked) = self.bitmaps.get_mut(&path) {
                tracked.shown = None;
            }
        }
    }

    /// Every bitmap that says that it is valid covers what has changed. After a crash one may say
    /// that it is not.
    pub(super) fn check_bitmaps(&mut self, crashed: bool) {
        // What is added to the disk is not recorded.
        let smallest = self.model.borrow_mut().take_smallest();
        self.forget_what_has_changed();
        for layer in 0..self.chain.0.len() {
            let path = self.chain.0[layer].0.clone();
            let Some(mut tracked) = self.bitmaps.remove(&path) else {
                continue;
            };
            let offline = self.offline();
            let node = offline.open_chain_from(self, layer, true);
            let bitmap = node.bitmaps().find(NAME);
            let bitmap = bitmap.unwrap_or_else(|| panic!("{}: no bitmap", path.display()));
            assert!(
                !bitmap.is_inconsistent() || crashed || self.short_of_room || tracked.lost,
                "{}: an orderly end left the bitmap in use",
                path.display()
            );
            tracked.lost = bitmap.is_inconsistent();
            if let Some(shown) = tracked.shown.as_mut().filter(|_| !tracked.lost) {
                shown.truncate(usize::try_from(smallest).unwrap());
                check(&offline, &node, &bitmap, shown);
            }
            self.bitmaps.insert(path, tracked);
        }
    }
}

fn check(offline: &Offline, node: &Rc<Node>, bitmap: &DirtyBitmap, shown: &[u8]) {
    let now = offline.read_all(node);
    let sector = SECTOR as usize;
    for (n, (old, new)) in shown.chunks(sector).zip(now.chunks(sector)).enumerate() {
        let (_, dirty) = bitmap.run_at(n as u64 * SECTOR);
        assert!(
            dirty || old == new,
            "{}: sector {n} has changed, and the bitmap does not say so",
            node.path().display()
        );
    }
}
