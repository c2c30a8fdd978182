//! Commits: what the upper layers hold goes down into a lower one.

use std::{cell::Cell, rc::Rc};

use strata_graph::{Node, commit};
use strata_storage::error::Result;

use super::{World, offline::Offline};
use crate::oracle;

/// What a commit is to do.
struct Task {
    /// Layers above the base.
    above: usize,
    /// Empties the top when all is in the base.
    empties: bool,
    /// Set when the base has everything.
    committed: Rc<Cell<bool>>,
}

impl World {
    /// Commits into a layer below the top; a crash may end that. The disk shows the same at any
    /// moment, and in the end the base does, too.
    pub fn commit(&mut self) {
        let layers = self.chain.0.len();
        if layers < 2 {
            return;
        }
        self.renew_bitmaps();
        let before = self.read_at_rest();
        let above = if self.random.one_in(2) {
            1
        } else {
            1 + self.random.below(layers as u64 - 1) as usize
        };
        let task = Task {
            above,
            // What a layer in between holds would show again.
            empties: above == 1 && !self.random.one_in(4),
            committed: Rc::default(),
        };
        self.bitmaps_miss_a_commit(above);
        let offline = self.offline();
        let top = offline.open_chain(self, false);
        let may_fail = self.random.one_in(3);
        if may_fail {
            self.bring_trouble(&offline, above);
        }
        let mark = task.committed.clone();
        let work = run(top.clone(), task);
        match offline.run(self, work, &mark, |_, _| ()) {
            None => {}
            Some(Ok(())) => return self.committed(&offline, above, &before),
            Some(Err(error)) => {
                assert!(may_fail, "{error}");
                offline.end_trouble();
                assert!(offline.read_all(&top) == before, "{error}");
            }
        }
        drop(top);
        self.crash_offline(&offline);
    }

    /// Lets files fail, or a layer have little room.
    pub(super) fn bring_trouble(&mut self, offline: &Offline, layer: usize) {
        if self.random.one_in(2) {
            return offline.set_faults(&mut self.random);
        }
        let file = offline.directory.file(&self.chain.0[layer].0).unwrap();
        let most = self.random.pick(&[2, 8, 48]);
        file.set_room(Some(self.random.below(most)));
    }

    /// All has gone well: the base shows the disk. The layers above it may be given up.
    fn committed(&mut self, offline: &Offline, above: usize, before: &[u8]) {
        self.end_offline(offline);
        let shown = self.read_at_rest();
        assert!(shown == before, "the disk shows something else");
        let rest = self.chain.0.split_off(above);
        let upper = std::mem::replace(&mut self.chain.0, rest);
        let base = self.read_at_rest();
        assert!(base.starts_with(before), "the base shows something else");
        let shown = if self.random.one_in(2) {
            self.chain.0.splice(0..0, upper);
            shown
        } else {
            base
        };
        self.model.borrow_mut().resized(shown.len() as u64);
        self.model.borrow_mut().found(&shown);
        if self.with_qemu {
            oracle::check_with_qemu(&self.files, &self.chain, &shown);
        }
    }
}

async fn run(top: Rc<Node>, task: Task) -> Result<()> {
    let base = top.chain().nth(task.above).expect("there are more layers");
    base.prepare_writing().await?;
    commit::commit(&top, &base, None, &|_, _| {}).await?;
    task.committed.set(true);
    if task.empties {
        commit::make_empty(&top).await?;
    }
    top.image().close().await?;
    base.image().close().await
}
