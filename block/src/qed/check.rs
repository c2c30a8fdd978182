//! What an image that was not closed cleanly goes through before it is written (the section
//! "Consistency checking" of the specification).

use std::collections::HashMap;

use super::{Qed, lookup::ZERO};
use crate::{
    error::{Error, IoResult, Result},
    exec::yield_now,
};

/// Bytes of a table that are read at once.
const CHUNK: u64 = 1 << 20;

/// Clusters that something names: one bit each, in pieces of 4096.
#[derive(Default)]
struct Used {
    pieces: HashMap<u64, Box<[u64; 64]>>,
    /// The first cluster behind all of them.
    end: u64,
}

impl Used {
    /// Notes a cluster; `false` if it was noted before.
    fn add(&mut self, cluster: u64) -> bool {
        let piece = self
            .pieces
            .entry(cluster >> 12)
            .or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = ((cluster >> 6 & 63) as usize, 1 << (cluster & 63));
        let new = piece[word] & bit == 0;
        piece[word] |= bit;
        self.end = self.end.max(cluster + 1);
        new
    }
}

impl Qed {
    /// Walks all tables. Entries that name no place in the file are cleared, as their data never got
    /// there; clusters at the end that nothing names are given back. Then the image is clean.
    ///
    /// # Errors
    /// Two entries name one cluster, which cannot be put right; the host's error.
    pub(super) async fn repair(&self) -> Result<()> {
        let mut used = Used::default();
        let (l1_offset, table_bytes) = {
            let header = self.header.borrow();
            (header.l1_offset, header.table_bytes())
        };
        self.note(&mut used, l1_offset, table_bytes)?;
        for index in 0..self.l1.len() {
            let table = self.l1.get(index).swap_bytes();
            if table == 0 {
                continue;
            }
            if self.is_valid_table(table) {
                self.note(&mut used, table, table_bytes)?;
                self.repair_table(&mut used, table, table_bytes).await?;
            } else {
                self.l1.set(index, 0);
            }
        }
        self.flush().await?;
        let end = used.end.saturating_mul(self.cluster_size());
        let end = end.max(self.header.borrow().bytes());
        if end < self.file.len() {
            self.file.set_len(end).await?;
            self.file.flush().await?;
        }
        self.end.set(end);
        Ok(self.mark_clean().await?)
    }

    async fn repair_table(&self, used: &mut Used, table: u64, bytes: u64) -> Result<()> {
        let mut at = table;
        while at < table + bytes {
            let len = CHUNK.min(table + bytes - at);
            let part = self.file.extent(at, len).await;
            let len = part.len.next_multiple_of(8).min(len);
            if part.data {
                let entries = self.file.read_vec(at, len as usize).await?;
                let (entries, _) = entries.as_chunks::<8>();
                for (n, entry) in entries.iter().enumerate() {
                    let entry = u64::from_le_bytes(*entry);
                    if entry <= ZERO {
                        continue;
                    }
                    if self.is_valid_data(entry) {
                        self.note(used, entry, self.cluster_size())?;
                    } else {
                        self.clear_entry(table, (at - table) / 8 + n as u64).await?;
                    }
                }
            }
            at += len;
            yield_now().await;
        }
        Ok(())
    }

    async fn clear_entry(&self, table: u64, index: u64) -> IoResult<()> {
        self.make_room().await?;
        let slice = self.slice(table, index).await?;
        let index = index % super::lookup::SLICE_ENTRIES;
        self.l2.set_entry(&slice, index as usize, 0);
        Ok(())
    }

    fn note(&self, used: &mut Used, offset: u64, len: u64) -> Result<()> {
        let cluster_size = self.cluster_size();
        for cluster in offset / cluster_size..(offset + len) / cluster_size {
            if !used.add(cluster) {
                let why = format!(
                    "is corrupt: the cluster at {:#x} is named twice; copy what can be read with \
                     'qemu-img convert'",
                    cluster * cluster_size
                );
                return Err(Error::Image {
                    file: self.file.path().to_owned(),
                    why,
                });
            }
        }
        Ok(())
    }
}
