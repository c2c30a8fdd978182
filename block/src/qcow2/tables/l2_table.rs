//! Entries of L2 tables, and tables that may be written: new ones, and own copies of shared ones.

use std::rc::Rc;

use crate::{
    error::IoResult,
    qcow2::{
        Qcow2,
        layout::{
            entry::{self, Entry, RawEntry, TableRef},
            geometry::{GuestCluster, HostCluster, HostRun},
        },
        space::metadata_map::Kind,
    },
    table_cache::Slice,
};

impl Qcow2 {
    /// The L2 entry at `index` of a slice, as it lies in the file.
    pub(in crate::qcow2) fn raw_l2_entry(&self, slice: &Slice, index: usize) -> RawEntry {
        if self.geometry.extended_l2 {
            RawEntry {
                descriptor: slice.entry(index * 2),
                bitmap: slice.entry(index * 2 + 1),
            }
        } else {
            RawEntry {
                descriptor: slice.entry(index),
                bitmap: 0,
            }
        }
    }

    /// The L2 entry at `index` of a slice, or what is wrong with it.
    pub(in crate::qcow2) fn l2_entry(&self, slice: &Slice, index: usize) -> Result<Entry, String> {
        entry::decode_l2(self.raw_l2_entry(slice, index), &self.geometry)
    }

    /// Sets the L2 entry at `index` of a slice.
    pub(in crate::qcow2) fn set_l2_entry(&self, slice: &Slice, index: usize, entry: Entry) {
        let RawEntry { descriptor, bitmap } = entry::encode_l2(entry, &self.geometry);
        if self.geometry.extended_l2 {
            self.l2.set_entry(slice, index * 2, descriptor);
            self.l2.set_entry(slice, index * 2 + 1, bitmap);
        } else {
            self.l2.set_entry(slice, index, descriptor);
        }
    }

    /// The slice that holds the entry of `cluster`, in a table with refcount one.
    pub(in crate::qcow2) async fn l2_slice_for_write(
        &self,
        cluster: GuestCluster,
    ) -> IoResult<Rc<Slice>> {
        if self.l2.is_crowded() {
            self.write_back_tables().await?;
        }
        let table = self.l2_table_for_write(cluster).await?;
        let g = &self.geometry;
        let offset = g.host_offset(table) + g.slice_in_table(cluster);
        self.l2.get(offset).await
    }

    /// The L2 table for `cluster`; made if there is none. L1 names it in memory at once and on
    /// disk once the table is durable (rule W4).
    async fn l2_table_for_write(&self, cluster: GuestCluster) -> IoResult<HostCluster> {
        let index = self.geometry.l1_index(cluster);
        if let Some(TableRef { host, copied: true }) = self.l1_entry(index)? {
            return Ok(host);
        }
        let _linking = self.linking.lock().await;
        let old = match self.l1_entry(index)? {
            Some(TableRef { host, copied: true }) => return Ok(host),
            other => other,
        };
        let new = self.allocate(1).await?.run;
        if let Err(error) = self.fill_table(new.first, old).await {
            self.give_back(new).await;
            return Err(error);
        }
        // Its place may have been a table's before, of which somebody has read a piece late.
        let g = &self.geometry;
        self.l2.forget(g.host_offset(new.first), g.cluster_size());
        self.note_metadata(new, Kind::L2)?;
        self.l1
            .set(index, entry::encode_l1(new.first, &self.geometry));
        if let Some(old) = old {
            let old = HostRun::one(old.host);
            self.metadata.remove(old);
            self.l2.forget(g.host_offset(old.first), g.cluster_size());
            self.freed.push(old);
        }
        Ok(new.first)
    }

    pub(in crate::qcow2) fn l1_entry(&self, index: usize) -> IoResult<Option<TableRef>> {
        entry::decode_l1(self.l1.get(index), &self.geometry).map_err(|why| self.corrupt(why))
    }

    /// Writes a new table: empty, or as the one it takes the place of.
    async fn fill_table(&self, new: HostCluster, old: Option<TableRef>) -> IoResult<()> {
        let g = &self.geometry;
        let offset = g.host_offset(new);
        match old {
            None => {
                self.file
                    .write_zeroes(offset, g.cluster_size(), false)
                    .await
            }
            Some(old) => {
                let bytes = self
                    .file
                    .read_vec(g.host_offset(old.host), g.cluster_len())
                    .await?;
                self.file.write_vec(offset, bytes).await
            }
        }
    }
}
