//! Making a snapshot.

use std::time::{SystemTime, UNIX_EPOCH};
use strata_exec::mem::to_usize;

use strata_storage::error::Result;

use super::{Snapshot, references::Raised};
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

impl Qcow2 {
    /// Makes a snapshot of the disk as it is, with the name `name` and the time `now`; durable when
    /// this returns. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The name is too long, or there are too many snapshots; refcounts are too narrow; the image
    /// cannot have snapshots; the host's error.
    pub async fn create_snapshot(&self, name: &str, now: SystemTime) -> Result<()> {
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
        let mut snapshot = Snapshot {
            id: next_id(&snapshots),
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
        let result = async {
            self.clear_copied_flags().await?;
            if let Raised::Full(count) = self.raise_references(&l1).await? {
                self.lower_references(&l1, count).await?;
                self.end_snapshot_change().await?;
                return Ok(false);
            }
            // A disk without bytes has none.
            if !l1.is_empty() {
                let table = self.write_snapshot_l1(&l1).await?;
                snapshot.l1_offset = self.geometry.host_offset(table.first);
            }
            snapshots.push(snapshot);
            self.write_snapshots(&snapshots).await?;
            self.end_snapshot_change().await?;
            Ok(true)
        }
        .await;
        if self.give_up(result)? {
            Ok(())
        } else {
            Err(self.too_many_references().into())
        }
    }

    async fn write_snapshot_l1(&self, l1: &[u64]) -> Result<HostRun> {
        let g = &self.geometry;
        let count = g.clusters_for(l1.len() as u64 * 8);
        let run = self.space.allocate_adjacent(count).await?;
        self.space.note_metadata(run, MetadataKind::SnapshotL1)?;
        let mut bytes: Vec<u8> = l1.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        bytes.resize(to_usize(run.count * g.cluster_size()), 0);
        self.file
            .storage()
            .write_vec(g.host_offset(run.first), bytes)
            .await?;
        Ok(run)
    }
}

/// One more than the largest number that is an id.
fn next_id(snapshots: &[Snapshot]) -> String {
    let numbers = snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok());
    numbers.max().unwrap_or(0).saturating_add(1).to_string()
}
