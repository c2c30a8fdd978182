//! What an L1 table leads to, and the references that this makes.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{IoError, IoResult};

use crate::qcow2::{
    Qcow2,
    layout::{
        entry::{self, Entry, RawEntry},
        fields::Fields,
        geometry::{HostCluster, HostRun},
    },
    space::RefcountUpdate,
};

/// An L2 table that is not in the cache, or need not be.
pub(in crate::qcow2) struct Table {
    pub host: HostCluster,
    pub entries: Vec<Entry>,
}

impl Qcow2 {
    /// Reads the L2 table that an L1 entry names, if it names one, from the file.
    pub(in crate::qcow2) async fn read_table(&self, raw: u64) -> IoResult<Option<Table>> {
        let g = &self.geometry;
        let table = self.tables.decode_l1(raw)?;
        let Some(table) = table else { return Ok(None) };
        let offset = g.host_offset(table.host);
        if offset >= self.file.storage().len() {
            return Err(self
                .file
                .corrupt(format!("L1 entry {raw:#x} points outside the file")));
        }
        let bytes = self
            .file
            .storage()
            .read_vec(offset, g.cluster_len())
            .await?;
        let fields = Fields(&bytes);
        let len = to_usize(g.l2_entry_bytes());
        let entries = (0..bytes.len() / len).map(|n| {
            let raw = RawEntry {
                descriptor: fields.u64(n * len),
                bitmap: if g.extended_l2 {
                    fields.u64(n * len + 8)
                } else {
                    0
                },
            };
            entry::decode_l2(raw, g).map_err(|why| self.file.corrupt(why))
        });
        Ok(Some(Table {
            host: table.host,
            entries: entries.collect::<IoResult<_>>()?,
        }))
    }

    /// The clusters that have a reference because of a table: itself, and what it names.
    pub(super) fn references(&self, table: &Table) -> Vec<HostRun> {
        let g = &self.geometry;
        let mut runs = vec![HostRun::one(table.host)];
        if g.external_data {
            // What lies in the data file is not counted.
            return runs;
        }
        for entry in &table.entries {
            match *entry {
                Entry::Plain {
                    host: Some((host, _)),
                    ..
                } => runs.push(HostRun::one(host)),
                Entry::Plain { .. } => {}
                Entry::Compressed { offset, len } => runs.push(HostRun {
                    first: g.host_cluster(offset),
                    count: g.clusters_for(g.in_cluster(offset) + len),
                }),
            }
        }
        runs
    }

    /// Whether all that an L1 table leads to can be read and has references.
    ///
    /// # Errors
    /// What is damaged; the host's error.
    pub(super) async fn check_references(&self, l1: &[u64]) -> IoResult<()> {
        for &raw in l1 {
            let Some(table) = self.read_table(raw).await? else {
                continue;
            };
            for cluster in clusters(&self.references(&table)) {
                if self.space.refcount(cluster).await? == 0 {
                    return Err(self.unreferenced(cluster));
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    fn unreferenced(&self, cluster: HostCluster) -> IoError {
        let offset = self.geometry.host_offset(cluster);
        self.file
            .corrupt(format!("the cluster at {offset:#x} in use has refcount 0"))
    }

    /// Adds a reference to all that the L1 table leads to, in memory; whether refcounts are wide
    /// enough. `raised` counts the references that have been added, in any case.
    pub(super) async fn raise_references(&self, l1: &[u64], raised: &mut u64) -> IoResult<bool> {
        for &raw in l1 {
            let Some(table) = self.read_table(raw).await? else {
                continue;
            };
            for cluster in clusters(&self.references(&table)) {
                match self.space.add_reference(cluster).await? {
                    RefcountUpdate::Done => {}
                    RefcountUpdate::Unused => return Err(self.unreferenced(cluster)),
                    RefcountUpdate::AtMaximum => return Ok(false),
                }
                *raised += 1;
            }
            yield_now().await;
        }
        Ok(true)
    }

    /// Takes back the first `count` references that [`Qcow2::raise_references`] added.
    pub(super) async fn lower_references(&self, l1: &[u64], mut count: u64) -> IoResult<()> {
        for &raw in l1 {
            let Some(table) = self.read_table(raw).await? else {
                continue;
            };
            for cluster in clusters(&self.references(&table)) {
                if count == 0 {
                    return Ok(());
                }
                self.space.drop_references(HostRun::one(cluster)).await?;
                count -= 1;
            }
        }
        Ok(())
    }

    /// Frees all that an L1 table leads to, which the header no longer names.
    pub(in crate::qcow2) async fn free_references(&self, l1: &[u64]) -> IoResult<()> {
        let mut tables = 0;
        for &raw in l1 {
            let Some(table) = self.read_table(raw).await? else {
                continue;
            };
            for run in self.references(&table) {
                self.space.free_later(run);
            }
            tables += 1;
            if tables % super::TABLES_PER_FLUSH == 0 {
                self.flush().await?;
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Reads an L1 table of `count` entries. The caller has checked that it lies within the file.
    pub(super) async fn read_l1(&self, offset: u64, count: u32) -> IoResult<Vec<u64>> {
        let bytes = self
            .file
            .storage()
            .read_vec(offset, count as usize * 8)
            .await?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }

    /// That a snapshot cannot be made or applied because refcounts are too narrow.
    pub(super) fn too_many_references(&self) -> IoError {
        self.file.unsupported(format!(
            "another reference to a cluster (refcounts have {} bits)",
            1 << self.geometry.refcount_order
        ))
    }
}

fn clusters(runs: &[HostRun]) -> impl Iterator<Item = HostCluster> + '_ {
    let of = |run: &HostRun| (run.first.0..run.end().0).map(HostCluster);
    runs.iter().flat_map(of)
}
