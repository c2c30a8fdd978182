//! `transaction`: several commands, of which all are carried out or none (`qapi/transaction.json`).

use serde::{Deserialize, Serialize};

use super::{
    BlockCommit, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockStream,
    BlockdevSnapshot, BlockdevSnapshotInternal, BlockdevSnapshotSync, CmdError,
};

/// `transaction`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Transaction {
    /// What is to be done.
    pub actions: Vec<TransactionAction>,
    /// How the jobs of the actions depend on each other.
    pub properties: Option<TransactionProperties>,
}

/// `TransactionAction`, as far as it exists here: `{"type": ..., "data": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    content = "data",
    rename_all = "kebab-case",
    deny_unknown_fields
)]
pub enum TransactionAction {
    /// As the command of this name; so are the others.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
    /// See there.
    BlockdevSnapshot(BlockdevSnapshot),
    /// See there.
    BlockdevSnapshotInternalSync(BlockdevSnapshotInternal),
    /// See there.
    BlockDirtyBitmapAdd(BlockDirtyBitmapAdd),
    /// See there.
    BlockDirtyBitmapRemove(BlockDirtyBitmap),
    /// See there.
    BlockDirtyBitmapClear(BlockDirtyBitmap),
    /// See there.
    BlockDirtyBitmapEnable(BlockDirtyBitmap),
    /// See there.
    BlockDirtyBitmapDisable(BlockDirtyBitmap),
    /// See there.
    BlockDirtyBitmapMerge(BlockDirtyBitmapMerge),
    /// See there. Actions that start jobs are in a transaction of their own.
    BlockStream(BlockStream),
    /// See there.
    BlockCommit(Box<BlockCommit>),
    /// Nothing is done at all: for clients' tests.
    Abort(NoData),
}

/// The data of an action that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoData {}

/// `TransactionProperties`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TransactionProperties {
    /// [`CompletionMode::Individual`] if `None`.
    pub completion_mode: Option<CompletionMode>,
}

/// `ActionCompletionMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompletionMode {
    /// Each job ends by itself.
    Individual,
    /// If one fails, so do all: those that say no `group` are one.
    Grouped,
}

impl Transaction {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        self.actions.iter().try_for_each(|action| match action {
            TransactionAction::BlockdevSnapshotSync(cmd) => cmd.check(),
            TransactionAction::BlockStream(cmd) => cmd.check(),
            TransactionAction::BlockCommit(cmd) => cmd.check(),
            _ => Ok(()),
        })
    }
}
