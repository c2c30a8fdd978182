//! Making a snapshot.

use std::time::{SystemTime, UNIX_EPOCH};
use strata_exec::mem::to_usize;

use strata_storage::error::{Error, IoError, Result};

use super::Snapshot;
use crate::qcow2::{
    Qcow2,
    layout::{
        entry::COPIED,
        geometry::{HostRun, MAX_SNAPSHOTS},
    },
    space::MetadataKind,
};

/// Longest name in bytes, as QEMU has it.
const MAX_NAME: usize = 255;

/// What there is of a snapshot that is being made.
#[derive(Default)]
struct Made {
    /// References that have been added.
    references: u64,
    /// Where its L1 table lies, and behind that the table of snapshots.
    tables: Vec<HostRun>,
}

impl Qcow2 {
    /// Makes a snapshot of the disk as it is, with the name `name` and the time `now`; durable when
    /// this returns its id. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The name is too long, or there are too many snapshots; refcounts are too narrow; there is no
    /// room; the image cannot have snapshots; then there is none. After another error of the host
    /// the image has stopped.
    pub async fn create_snapshot(&self, name: &str, now: SystemTime) -> Result<String> {
        if name.len() > MAX_NAME {
            return Err(self
                .file
                .refused(format!("a snapshot's name has {MAX_NAME} bytes at most")));
        }
        let mut snapshots = self.snapshots().await?;
        if snapshots.len() >= MAX_SNAPSHOTS as usize {
            return Err(self.file.refused("has too many internal snapshots"));
        }
        let l1: Vec<u64> = self
            .tables
            .l1_entries()
            .iter()
            .map(|raw| raw & !COPIED)
            .collect();
        self.begin_snapshot_change(&[&l1]).await?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let size = self.virtual_size();
        let icount = 0u64;
        let id = next_id(&snapshots);
        let snapshot = Snapshot {
            id: id.clone(),
            name: name.to_owned(),
            date: (
                u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
                since.subsec_nanos(),
            ),
            vm_clock_nsec: 0,
            vm_state_size: 0,
            icount: Some(icount),
            disk_size: Some(size),
            l1_offset: 0,
            l1_size: u32::try_from(l1.len()).expect("an L1 table of 32 MiB at most"),
            extra: [0, size, icount].map(u64::to_be_bytes).concat(),
        };
        let mut made = Made::default();
        let prepared = self
            .prepare_snapshot(&l1, &mut snapshots, snapshot, &mut made)
            .await;
        let result = match prepared {
            Ok(true) => self.name_new_snapshots(&snapshots, &made).await,
            Ok(false) => {
                let taken_back = self.take_back_snapshot(&l1, made).await;
                self.give_up(taken_back)?;
                return Err(self.too_many_references().into());
            }
            Err(Error::Io(error @ IoError::NoSpace { .. })) => {
                let taken_back = self.take_back_snapshot(&l1, made).await;
                self.give_up(taken_back)?;
                return Err(error.into());
            }
            Err(error) => Err(error),
        };
        self.give_up(result)?;
        Ok(id)
    }

    /// Makes all that a new snapshot consists of, durable, but does not name it yet; whether
    /// refcounts are wide enough for it. `made` says what there is of it, in any case.
    async fn prepare_snapshot(
        &self,
        l1: &[u64],
        snapshots: &mut Vec<Snapshot>,
        mut snapshot: Snapshot,
        made: &mut Made,
    ) -> Result<bool> {
        self.clear_copied_flags().await?;
        if !self.raise_references(l1, &mut made.references).await? {
            return Ok(false);
        }
        // A disk without bytes has none.
        if !l1.is_empty() {
            let run = self
                .space
                .allocate_adjacent(self.geometry.clusters_for(l1.len() as u64 * 8))
                .await?;
            made.tables.push(run);
            self.write_snapshot_l1(l1, run).await?;
            snapshot.l1_offset = self.geometry.host_offset(run.first);
        }
        snapshots.push(snapshot);
        let run = self.allocate_snapshots(snapshots).await?;
        made.tables.extend(run);
        self.store_snapshots(snapshots, run).await?;
        Ok(true)
    }

    /// From here on the header names the snapshot.
    async fn name_new_snapshots(&self, snapshots: &[Snapshot], made: &Made) -> Result<()> {
        let table = made.tables.last().copied();
        self.name_snapshots(snapshots, table).await?;
        self.end_snapshot_change().await
    }

    /// Gives up what has been made of a snapshot that nothing names.
    async fn take_back_snapshot(&self, l1: &[u64], made: Made) -> Result<()> {
        self.lower_references(l1, made.references).await?;
        for run in made.tables {
            self.space.forget_metadata(run);
            self.space.free_later(run);
        }
        self.end_snapshot_change().await
    }

    async fn write_snapshot_l1(&self, l1: &[u64], run: HostRun) -> Result<()> {
        let g = &self.geometry;
        self.space.note_metadata(run, MetadataKind::SnapshotL1)?;
        let mut bytes: Vec<u8> = l1.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        bytes.resize(to_usize(run.count * g.cluster_size()), 0);
        self.file
            .storage()
            .write_vec(g.host_offset(run.first), bytes)
            .await?;
        Ok(())
    }
}

/// One more than the largest number that is an id.
fn next_id(snapshots: &[Snapshot]) -> String {
    let numbers = snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok());
    numbers.max().unwrap_or(0).saturating_add(1).to_string()
}
