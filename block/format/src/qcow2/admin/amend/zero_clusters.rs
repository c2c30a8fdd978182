//! Getting rid of zero clusters, which version 2 does not have: what lies on a backing file becomes
//! data, the rest is given up. Tables of internal snapshots are changed in place, as they show the
//! same afterwards. The dirty bit is set meanwhile, so that what a crash leaves is counted anew.

use std::collections::BTreeSet;

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{IoResult, Result};

use crate::qcow2::{
    Qcow2,
    admin::snapshot::Table,
    layout::{
        entry::{self, Entry, encode_l2},
        geometry::{HostCluster, HostRun},
    },
    space::RefcountUpdate,
};

/// Whether an entry says that its cluster, which has no subclusters, reads as zeros.
fn is_zero(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Plain {
            data: 0,
            zero: 1..,
            ..
        }
    )
}

impl Qcow2 {
    /// Replaces all zero clusters of the disk and of all snapshots. The image is of version 3,
    /// without extended L2 entries and without an external data file; nothing else uses it.
    /// `progress` is called with how many of how many L1 entries have been looked at.
    pub(super) async fn replace_zero_clusters(&self, progress: &dyn Fn(u64, u64)) -> Result<()> {
        let entries = self.all_l1_entries().await?;
        let mut begun = false;
        let result = async {
            for (n, raw) in (1..).zip(&entries) {
                let table = match raw {
                    Some(raw) => self.read_table(*raw).await?,
                    None => None,
                };
                if let Some(table) = table.filter(|t| t.entries.iter().any(is_zero)) {
                    if !begun {
                        let l1: Vec<u64> = entries.iter().copied().flatten().collect();
                        self.begin_snapshot_change(&[&l1]).await?;
                        begun = true;
                    }
                    self.replace_in(table).await?;
                }
                progress(n, entries.len() as u64);
                yield_now().await;
            }
            if begun {
                self.end_snapshot_change().await?;
            }
            Ok(())
        };
        let result = result.await;
        self.give_up(result)
    }

    /// Whether the disk or a snapshot has a compressed cluster.
    pub(super) async fn has_compressed_clusters(&self) -> Result<bool> {
        let is_compressed = |entry: &Entry| matches!(entry, Entry::Compressed { .. });
        for raw in self.all_l1_entries().await?.into_iter().flatten() {
            let table = self.read_table(raw).await?;
            if table.is_some_and(|table| table.entries.iter().any(is_compressed)) {
                return Ok(true);
            }
            yield_now().await;
        }
        Ok(false)
    }

    /// The entries of the L1 tables of the disk and of all snapshots; `None` where they name no L2
    /// table, or one that came before.
    async fn all_l1_entries(&self) -> Result<Vec<Option<u64>>> {
        let mut entries = self.tables.l1_entries();
        for snapshot in self.snapshots().await? {
            entries.extend(self.snapshot_l1(&snapshot).await?);
        }
        let mut seen = BTreeSet::new();
        let mut is_new = |raw: &u64| {
            let table = raw & entry::OFFSET_MASK;
            table != 0 && seen.insert(table)
        };
        let entries = entries.into_iter();
        Ok(entries.map(|raw| Some(raw).filter(&mut is_new)).collect())
    }

    /// Replaces the zero clusters of one L2 table.
    async fn replace_in(&self, table: Table) -> IoResult<()> {
        let g = &self.geometry;
        // What refers to the table refers to what it names, too, once more for each reference.
        let references = self.space.refcount(table.host).await?;
        let mut entries = table.entries.clone();
        let mut gone = Vec::new();
        for entry in entries.iter_mut().filter(|entry| is_zero(entry)) {
            let host = entry.host().map(|(host, _)| host);
            *entry = self.replacement(host, references).await?;
            let now = entry.host().map(|(host, _)| host);
            if let Some(host) = host.filter(|host| now != Some(*host)) {
                gone.push(host);
            }
        }
        // The zeros, and the refcounts of where they lie (rules W1 and W2).
        self.flush().await?;
        let len = to_usize(g.l2_entry_bytes());
        let bytes = entries.iter().flat_map(|entry| {
            let raw = encode_l2(*entry, g);
            let both = [raw.descriptor.to_be_bytes(), raw.bitmap.to_be_bytes()].concat();
            both[..len].to_vec()
        });
        let offset = g.host_offset(table.host);
        self.file
            .storage()
            .write_vec(offset, bytes.collect())
            .await?;
        self.tables.forget(table.host);
        // Nothing names them any more when this is durable (rule W3).
        self.flush().await?;
        for host in gone {
            for _ in 0..references {
                self.space.drop_references(HostRun::one(host)).await?;
            }
        }
        yield_now().await;
        Ok(())
    }

    /// What says the same as a zero cluster that keeps `host`, in a table with `references`.
    async fn replacement(&self, host: Option<HostCluster>, references: u64) -> IoResult<Entry> {
        let g = &self.geometry;
        let host = match host {
            // A snapshot may show what lies there.
            Some(host) if self.space.refcount(host).await? != references => None,
            host => host,
        };
        let host = match host {
            Some(host) => host,
            None if self.file.area().backing_name.is_none() => return Ok(Entry::UNALLOCATED),
            None => {
                let host = self.space.allocate(1).await?.run.first;
                self.set_references(host, references).await?;
                host
            }
        };
        let offset = g.host_offset(host);
        self.space.check_data(offset, g.cluster_size())?;
        self.file
            .storage()
            .write_zeroes(offset, g.cluster_size(), false)
            .await?;
        Ok(Entry::Plain {
            // Snapshots' tables have no such flags; those of the disk get theirs at the end.
            host: Some((host, false)),
            data: entry::all(g),
            zero: 0,
        })
    }

    /// Sets the refcount of a cluster that has one reference already.
    async fn set_references(&self, host: HostCluster, references: u64) -> IoResult<()> {
        match self.space.set_refcount(host, references).await? {
            RefcountUpdate::Done => Ok(()),
            RefcountUpdate::Unused | RefcountUpdate::AtMaximum => {
                let what = "a cluster that was allocated has no refcount";
                Err(self.file.corrupt(what))
            }
        }
    }
}
