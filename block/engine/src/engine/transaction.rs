//! `transaction`, and what single commands of its kinds come to: overlays, internal snapshots and
//! changes of bitmaps on several disks, all of them or none, and at one moment.

use std::rc::Rc;

use strata_graph::{Edit, Node, bitmaps::BitmapUndo};

use super::{
    Engine,
    bitmaps::BitmapCmd,
    internal::Internal,
    refused,
    snapshot::{Made, Opened, Overlay, failed},
};
use crate::api::{
    BitmapChange, Cmd, CmdError, CompletionMode, NoData, Reply, Transaction, TransactionAction,
};

/// What is to be done, in the order of the actions of each kind.
#[derive(Default)]
pub(super) struct Plan {
    pub overlays: Vec<Overlay>,
    pub internal: Vec<Internal>,
    bitmaps: Vec<BitmapAction>,
    merges: Vec<Cmd>,
}

/// A change of a bitmap.
struct BitmapAction {
    cmd: BitmapCmd,
    /// So many overlays are on their disks by then: names of disks mean them.
    overlays: usize,
}

/// What takes back what has been done so far.
#[derive(Default)]
struct Undo {
    bitmaps: Vec<(Rc<Node>, BitmapUndo)>,
    /// Internal snapshots by their ids.
    internal: Vec<(Rc<Node>, String)>,
}

impl Engine {
    /// `transaction`.
    pub(super) async fn transaction(self: &Rc<Self>, cmd: Transaction) -> Result<Reply, CmdError> {
        let mode = cmd.properties.and_then(|given| given.completion_mode);
        let (mut plan, actions) = (Plan::default(), cmd.actions.len());
        for action in cmd.actions {
            self.plan(action, &mut plan)?;
        }
        if plan.merges.is_empty() {
            self.carry_out(plan).await?;
        } else if plan.merges.len() < actions {
            let why = "Jobs are started by a transaction that does nothing else";
            return Err(refused(why));
        } else {
            let grouped = mode == Some(CompletionMode::Grouped);
            self.begin_together(plan.merges, grouped).await?;
        }
        Ok(Reply::Done)
    }

    fn plan(&self, action: TransactionAction, plan: &mut Plan) -> Result<(), CmdError> {
        use TransactionAction as Action;
        let bitmap = match action {
            Action::BlockdevSnapshotSync(cmd) => {
                plan.overlays.push(self.find_overlay(cmd)?);
                return Ok(());
            }
            Action::BlockdevSnapshot(cmd) => {
                plan.overlays.push(self.find_added_overlay(&cmd)?);
                return Ok(());
            }
            Action::BlockdevSnapshotInternalSync(cmd) => {
                plan.internal.push(self.find_internal(cmd)?);
                return Ok(());
            }
            Action::BlockStream(cmd) => {
                plan.merges.push(Cmd::BlockStream(cmd));
                return Ok(());
            }
            Action::BlockCommit(cmd) => {
                plan.merges.push(Cmd::BlockCommit(cmd));
                return Ok(());
            }
            Action::Abort(NoData {}) => {
                return Err(refused("Transaction aborted using Abort action"));
            }
            Action::BlockDirtyBitmapAdd(cmd) => cmd.into(),
            Action::BlockDirtyBitmapMerge(cmd) => cmd.into(),
            Action::BlockDirtyBitmapRemove(bitmap) => BitmapCmd::new(bitmap, BitmapChange::Remove),
            Action::BlockDirtyBitmapClear(bitmap) => BitmapCmd::new(bitmap, BitmapChange::Clear),
            Action::BlockDirtyBitmapEnable(bitmap) => {
                BitmapCmd::new(bitmap, BitmapChange::Record(true))
            }
            Action::BlockDirtyBitmapDisable(bitmap) => {
                BitmapCmd::new(bitmap, BitmapChange::Record(false))
            }
        };
        plan.bitmaps.push(BitmapAction {
            cmd: bitmap,
            overlays: plan.overlays.len(),
        });
        Ok(())
    }

    /// Does all of it, or nothing; returns what QEMU prints of the overlays that were made. Of two
    /// changes of which one has waited for the other no overlay hides the first alone: while it
    /// happens all disks are at rest.
    pub(super) async fn carry_out(&self, plan: Plan) -> Result<Vec<String>, CmdError> {
        let mut made = Made::default();
        let result = self.try_to_carry_out(plan, &mut made).await;
        if result.is_err() {
            // Nothing points at them, and the error that is reported says more.
            for path in &made.paths {
                self.opener.files().remove(path);
            }
        }
        result.map(|()| made.lines)
    }

    async fn try_to_carry_out(&self, plan: Plan, made: &mut Made) -> Result<(), CmdError> {
        let Plan {
            overlays,
            internal,
            bitmaps,
            merges: _,
        } = plan;
        let mut opened = Vec::new();
        for overlay in overlays {
            opened.push(self.open_overlay(overlay, made).await?);
        }
        let result = self.change_all(&opened, &internal, &bitmaps).await;
        if result.is_err() {
            for one in opened.iter().filter(|one| one.is_to_be_closed()) {
                // The error that is reported says more.
                let _ = one.new.image().close().await;
            }
        }
        result
    }

    async fn change_all(
        &self,
        opened: &[Opened],
        internal: &[Internal],
        bitmaps: &[BitmapAction],
    ) -> Result<(), CmdError> {
        let mut edit = Edit::default();
        for one in opened {
            edit = edit.overlay(&one.disk, &one.new, &one.hold);
        }
        edit.check()?;
        // Most of what has to be flushed is flushed while the guests go on.
        for one in opened {
            self.check_opened(one)?;
            one.old
                .flush()
                .await
                .map_err(|error| failed(error.into()))?;
        }
        for one in internal {
            one.prepare().await?;
        }
        let mut others: Vec<_> = internal.iter().map(|one| one.disk.clone()).collect();
        for action in bitmaps {
            let found = self.find_layer(action.cmd.node());
            others.extend(found.map(|(disk, _)| disk));
        }
        // What several such commands do to disks at rest is not mixed.
        let _alone = self.at_rest.lock().await;
        let drained = edit.drain_with(&others).await;
        let mut undo = Undo::default();
        let changed = self.change_at_rest(opened, internal, bitmaps, &mut undo);
        let mut result = changed.await;
        if result.is_ok() {
            result = edit.check().map_err(CmdError::from);
        }
        if let Err(error) = result {
            undo.carry_out().await;
            return Err(error);
        }
        drained.apply()?;
        opened.iter().for_each(|one| self.adopt(one));
        for one in opened {
            one.has_become_top().await;
        }
        Ok(())
    }

    /// All that may fail or has to wait. The disks are at rest.
    async fn change_at_rest(
        &self,
        opened: &[Opened],
        internal: &[Internal],
        bitmaps: &[BitmapAction],
        undo: &mut Undo,
    ) -> Result<(), CmdError> {
        // Those of an old top are stored with it.
        for action in bitmaps {
            let overlays = &opened[..action.overlays];
            let find = |name: &str| {
                let over = overlays.iter().rev().find(|one| one.is_called(name));
                let found = || self.find_layer(name).map(|(_, layer)| layer);
                over.map(|one| one.new.clone()).or_else(found)
            };
            let done = self.change_bitmap(&action.cmd, find, true).await?;
            undo.bitmaps.extend(done);
        }
        for one in internal {
            let id = one.make().await?;
            undo.internal.push((one.node.clone(), id));
        }
        for one in opened {
            // Nothing is written to it any more, not even refcounts.
            one.old.image().settle().await.map_err(failed)?;
        }
        for one in opened {
            // Somebody may have been at the files meanwhile.
            self.check_opened(one)?;
            self.check_added(one)?;
        }
        Ok(())
    }
}

impl Undo {
    /// Takes all of it back. The disks are at rest still.
    async fn carry_out(self) {
        for (node, undo) in self.bitmaps.into_iter().rev() {
            undo.carry_out(node.bitmaps());
            // Its file may have been settled with what is taken back.
            if node.is_writable()
                && let Err(error) = node.begin_bitmap_change().await
            {
                tracing::warn!(%error, "bitmaps may not be stored");
            }
        }
        for (node, id) in self.internal.into_iter().rev() {
            let image = node.image().as_qcow2().expect("it has snapshots");
            if let Err(error) = image.delete_snapshot(&id).await {
                tracing::warn!(%error, "an internal snapshot is left that is not wanted");
            }
        }
    }
}
