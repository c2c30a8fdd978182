//! [`Cmd`]: every command of the block layer, named once.
//!
//! A command's arguments are one value from the monitor to the engine: QMP parses it, HMP fills it,
//! the engine carries it out. Members are named, ordered and typed as in QEMU's QAPI schema. An
//! argument that was not given is `None`; the engine knows what that means.

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    BlockCommit, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockExportAdd,
    BlockExportDel, BlockJobCancel, BlockJobRef, BlockJobSetSpeed, BlockLatencyHistogramSet,
    BlockResize, BlockSetIoThrottle, BlockStream, BlockdevAdd, BlockdevChangeMedium, BlockdevDel,
    BlockdevInsertMedium, BlockdevSnapshot, BlockdevSnapshotDeleteInternal,
    BlockdevSnapshotInternal, BlockdevSnapshotSync, ChangeBackingFile, CmdError, CommitDisk,
    DriveRef, JobRef, NbdServerAdd, NbdServerRemove, NbdServerStart, ObjectAdd, ObjectDel,
    OpenTray, QueryBlockstats, QueryChain, QueryNamedBlockNodes, Transaction,
};

/// Defines [`Cmd`] and what follows from the list of commands. Each is given by its name, its
/// variant and the type of its arguments, if it has any. QMP offers none of those at the end: they
/// are HMP's.
macro_rules! commands {
    (@parse $arguments:ident, $variant:ident) => {
        NoArguments::deserialize($arguments).map(|NoArguments {}| Self::$variant)
    };
    (@parse $arguments:ident, $variant:ident, $type:ty) => {
        <$type>::deserialize($arguments).map(Self::$variant)
    };
    (
        $($name:literal => $variant:ident $(($type:ty))?: $doc:literal,)*
        not in QMP:
        $($inner_name:literal => $inner:ident $(($inner_type:ty))?: $inner_doc:literal,)*
    ) => {
        /// A command for the block layer. Serialised it has the form of a QMP request.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "execute", content = "arguments")]
        pub enum Cmd {
            $(
                #[doc = concat!("`", $name, "`: ", $doc)]
                #[serde(rename = $name)]
                $variant $(($type))?,
            )*
            $(
                #[doc = concat!("`", $inner_name, "`: ", $inner_doc)]
                #[serde(rename = $inner_name)]
                $inner $(($inner_type))?,
            )*
        }

        impl Cmd {
            /// The names of all commands that QMP offers.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The name of this one.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                    $(Self::$inner { .. } => $inner_name,)*
                }
            }

            /// Reads the arguments of the command called `name`; `None` if QMP offers none.
            ///
            /// # Errors
            /// The deserializer's: arguments that are missing, of a wrong type, or unknown.
            pub fn parse<'de, D: Deserializer<'de>>(
                name: &str,
                arguments: D,
            ) -> Option<Result<Self, D::Error>> {
                Some(match name {
                    $($name => commands!(@parse arguments, $variant $(, $type)?),)*
                    _ => return None,
                })
            }
        }
    };
}

commands! {
    "blockdev-snapshot-sync" => BlockdevSnapshotSync(BlockdevSnapshotSync):
        "puts a new overlay on top of a disk.",
    "blockdev-snapshot" => BlockdevSnapshot(BlockdevSnapshot):
        "puts an overlay on top of a disk that blockdev-add has opened.",
    "blockdev-snapshot-internal-sync" => BlockdevSnapshotInternalSync(BlockdevSnapshotInternal):
        "keeps a disk as it is now, within its image.",
    "blockdev-snapshot-delete-internal-sync" =>
        BlockdevSnapshotDeleteInternalSync(BlockdevSnapshotDeleteInternal):
        "gives up what was kept so.",
    "transaction" => Transaction(Transaction):
        "several snapshots and changes of bitmaps, all of them or none.",
    "change-backing-file" => ChangeBackingFile(ChangeBackingFile):
        "how a header names the layer below.",
    "block_resize" => BlockResize(BlockResize): "another size for a disk.",
    "block_set_io_throttle" => BlockSetIoThrottle(Box<BlockSetIoThrottle>):
        "limits what the guest may ask of a disk in a second.",
    "blockdev-add" => BlockdevAdd(BlockdevAdd): "opens an image and what lies below it.",
    "blockdev-del" => BlockdevDel(BlockdevDel): "closes such an image.",
    "eject" => Eject(OpenTray): "opens a drive's tray and takes out what is in it.",
    "blockdev-open-tray" => BlockdevOpenTray(OpenTray): "opens a drive's tray.",
    "blockdev-close-tray" => BlockdevCloseTray(DriveRef): "closes it.",
    "blockdev-remove-medium" => BlockdevRemoveMedium(DriveRef):
        "takes a medium out of an open tray.",
    "blockdev-insert-medium" => BlockdevInsertMedium(BlockdevInsertMedium):
        "puts an image that blockdev-add has opened into an open tray.",
    "blockdev-change-medium" => BlockdevChangeMedium(BlockdevChangeMedium):
        "puts another image into a drive.",
    "block-stream" => BlockStream(BlockStream):
        "copies what the top lacks from the layers below.",
    "block-commit" => BlockCommit(Box<BlockCommit>):
        "copies what layers hold into one further down.",
    "block-job-set-speed" => BlockJobSetSpeed(BlockJobSetSpeed): "another limit for a job.",
    "block-job-cancel" => BlockJobCancel(BlockJobCancel): "ends a job before it is done.",
    "block-job-pause" => BlockJobPause(BlockJobRef): "holds a job.",
    "block-job-resume" => BlockJobResume(BlockJobRef): "lets it go on.",
    "block-job-complete" => BlockJobComplete(BlockJobRef):
        "what a job that is ready has made takes its place.",
    "block-job-finalize" => BlockJobFinalize(JobRef): "ends a job that is pending.",
    "block-job-dismiss" => BlockJobDismiss(JobRef): "forgets a job that has concluded.",
    "job-pause" => JobPause(JobRef): "holds a job.",
    "job-resume" => JobResume(JobRef): "lets it go on.",
    "job-cancel" => JobCancel(JobRef): "ends a job, also one that the user has paused.",
    "job-complete" => JobComplete(JobRef): "what a job that is ready has made takes its place.",
    "job-finalize" => JobFinalize(JobRef): "ends a job that is pending.",
    "job-dismiss" => JobDismiss(JobRef): "forgets a job that has concluded.",
    "query-block" => QueryBlock: "the disks.",
    "query-blockstats" => QueryBlockstats(QueryBlockstats):
        "what has come of the disks' requests.",
    "block-latency-histogram-set" => BlockLatencyHistogramSet(BlockLatencyHistogramSet):
        "counts how long a disk's requests take.",
    "query-named-block-nodes" => QueryNamedBlockNodes(QueryNamedBlockNodes): "the layers.",
    "x-strata-query-chain" => QueryChain(QueryChain): "what the layers of disks hold.",
    "query-block-jobs" => QueryBlockJobs: "the jobs, with what block jobs have.",
    "query-jobs" => QueryJobs: "the jobs, with what all jobs have.",
    "block-dirty-bitmap-add" => BlockDirtyBitmapAdd(BlockDirtyBitmapAdd): "makes a bitmap.",
    "block-dirty-bitmap-remove" => BlockDirtyBitmapRemove(BlockDirtyBitmap): "forgets it.",
    "block-dirty-bitmap-clear" => BlockDirtyBitmapClear(BlockDirtyBitmap):
        "nothing is dirty any more.",
    "block-dirty-bitmap-enable" => BlockDirtyBitmapEnable(BlockDirtyBitmap):
        "writes are recorded.",
    "block-dirty-bitmap-disable" => BlockDirtyBitmapDisable(BlockDirtyBitmap):
        "writes are no longer recorded.",
    "block-dirty-bitmap-merge" => BlockDirtyBitmapMerge(BlockDirtyBitmapMerge):
        "what is dirty in others is dirty in this one, too.",
    "nbd-server-start" => NbdServerStart(NbdServerStart): "listens for NBD clients.",
    "nbd-server-add" => NbdServerAdd(NbdServerAdd): "exports a disk to them.",
    "nbd-server-remove" => NbdServerRemove(NbdServerRemove): "removes such an export.",
    "nbd-server-stop" => NbdServerStop:
        "stops all servers, also those that were started from the command line.",
    "block-export-add" => BlockExportAdd(Box<BlockExportAdd>): "exports a disk.",
    "block-export-del" => BlockExportDel(BlockExportDel): "removes an export.",
    "query-block-exports" => QueryBlockExports: "the exports.",
    "object-add" => ObjectAdd(ObjectAdd): "makes an object that other commands refer to.",
    "object-del" => ObjectDel(ObjectDel): "removes it.",

    not in QMP:
    "commit" => Commit(CommitDisk):
        "what the top holds goes down into its backing file, and is given up.",
    "x-query-inflight" => QueryInflight: "what is under way, and what it waits for.",
}

/// The arguments of a command that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

impl Cmd {
    /// The group of the job that the command starts, if it says one.
    pub(crate) fn group(&self) -> Option<&str> {
        match self {
            Self::BlockStream(cmd) => cmd.group.as_deref(),
            Self::BlockCommit(cmd) => cmd.group.as_deref(),
            _ => None,
        }
    }

    /// Has the job that the command starts be one of a group, which is as large as this unless the
    /// command says something else.
    pub(crate) fn set_group(&mut self, name: &str, size: u32) {
        let (group, given) = match self {
            Self::BlockStream(cmd) => (&mut cmd.group, &mut cmd.group_size),
            Self::BlockCommit(cmd) => (&mut cmd.group, &mut cmd.group_size),
            _ => return,
        };
        *group = Some(name.to_owned());
        given.get_or_insert(size);
    }

    /// Whether both start the same job, of a group whose size one of them may leave out.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        if self.group().is_none() {
            return false;
        }
        let (mut one, mut other) = (self.clone(), other.clone());
        one.clear_group_size();
        other.clear_group_size();
        one == other
    }

    fn clear_group_size(&mut self) {
        match self {
            Self::BlockStream(cmd) => cmd.group_size = None,
            Self::BlockCommit(cmd) => cmd.group_size = None,
            _ => {}
        }
    }

    /// Whether the command changes nothing.
    pub(crate) fn only_asks(&self) -> bool {
        matches!(
            self,
            Self::QueryBlock
                | Self::QueryBlockstats(_)
                | Self::QueryNamedBlockNodes(_)
                | Self::QueryChain(_)
                | Self::QueryBlockJobs
                | Self::QueryJobs
                | Self::QueryBlockExports
                | Self::QueryInflight
        )
    }

    /// Looks at what can be said of the arguments without the disks: whether they go together, and
    /// whether all that is asked for exists here.
    ///
    /// # Errors
    /// One line on what cannot be, in QEMU's words where QEMU has the same error.
    pub fn check(&self) -> Result<(), CmdError> {
        match self {
            Self::BlockdevSnapshotSync(arguments) => arguments.check(),
            Self::Transaction(arguments) => arguments.check(),
            Self::BlockdevSnapshotDeleteInternalSync(arguments) => arguments.check(),
            Self::BlockResize(arguments) => arguments.check(),
            Self::QueryBlockstats(arguments) => arguments.check(),
            Self::QueryChain(arguments) => arguments.check(),
            Self::BlockStream(arguments) => arguments.check(),
            Self::BlockCommit(arguments) => arguments.check(),
            Self::BlockSetIoThrottle(arguments) => arguments.check(),
            Self::NbdServerStart(arguments) => arguments.check(),
            Self::BlockExportAdd(arguments) => arguments.check(),
            Self::ObjectAdd(arguments) => arguments.check(),
            Self::Eject(arguments) | Self::BlockdevOpenTray(arguments) => {
                arguments.drive().map(drop)
            }
            Self::BlockdevCloseTray(arguments) | Self::BlockdevRemoveMedium(arguments) => {
                arguments.drive().map(drop)
            }
            Self::BlockdevInsertMedium(arguments) => arguments.drive().map(drop),
            Self::BlockdevChangeMedium(arguments) => arguments.drive().map(drop),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
