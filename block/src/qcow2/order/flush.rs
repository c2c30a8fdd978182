//! Writing tables back, in the order that survives a crash at any moment.
//!
//! All that is dirty is copied at one moment; changes made later wait for the next time. Then:
//! 0. An external data file is flushed: the data that L2 entries name is durable (W1).
//! 1. Refcount blocks are written. If the refcount table names new blocks: flush, then the table
//!    (W4).
//! 2. Flush: data, old data that copy-on-write filled in (W1), refcounts (W2) and new L2 tables as
//!    they were made, empty or copied (W4), are durable.
//! 3. L2 slices and L1 are written.
//! 4. Flush. What was cleared in the tables may be freed now (W3).
//!
//! Refcounts that went down were lowered in memory after step 4 of an earlier round, so a refcount
//! block may be written at any time.
//!
//! With lazy refcounts step 1 leaves out the blocks' changes. The dirty bit, durable before the
//! first of them, says that refcounts have to be counted anew after a crash.

use std::{cell::Cell, iter};

use crate::{
    error::{IoResult, Result},
    exec::sync::{Lock, LockGuard},
    mem::SgList,
    qcow2::{Qcow2, layout::geometry::HostRun, space::metadata_map::Kind},
    root_table::RootBatch,
    storage::Storage,
    table_cache::CacheBatch,
};

/// Flushes of one image: one at a time, shared by those who wait for it.
#[derive(Default)]
pub(in crate::qcow2) struct Flushes {
    /// Held while tables are written.
    lock: Lock,
    started: Cell<u64>,
    /// Number of the last flush that succeeded.
    done: Cell<u64>,
}

/// Tables as they were at one moment.
struct Snapshot {
    refcount_blocks: CacheBatch,
    refcount_table: RootBatch,
    l2: CacheBatch,
    l1: RootBatch,
}

impl Flushes {
    /// Waits until no tables are being written, and keeps it so.
    pub async fn exclude(&self) -> LockGuard<'_> {
        self.lock.lock().await
    }
}

impl Qcow2 {
    /// Makes everything durable that was acknowledged before the call.
    ///
    /// # Errors
    /// The host's error. After an error of metadata the image is not written any more (rule W6).
    pub async fn flush(&self) -> IoResult<()> {
        if self.read_only.get() {
            return Ok(());
        }
        self.check_running()?;
        let wanted = self.flushes.started.get() + 1;
        let guard = self.flushes.exclude().await;
        if self.flushes.done.get() >= wanted {
            return Ok(());
        }
        self.check_running()?;
        self.flushes.started.set(self.flushes.started.get() + 1);
        let number = self.flushes.started.get();
        self.write_tables(true).await?;
        self.flushes.done.set(number);
        drop(guard);
        self.release_freed().await
    }

    /// Flushes, stores the bitmaps, and writes back also what freeing clusters has changed, and
    /// refcounts that were written lazily: then the image is no longer marked dirty. Nothing is
    /// written to the image meanwhile.
    ///
    /// # Errors
    /// As [`Qcow2::flush`]; the bitmaps may be all that could not be stored.
    pub async fn close(&self) -> Result<()> {
        self.flush().await?;
        let stored = self.store_bitmaps().await;
        // What is freed by the first changes refcounts, which the second writes.
        for _ in 0..2 {
            if !self.read_only.get() && (self.refcounts.blocks.is_dirty() || !self.freed.is_empty())
            {
                self.flush().await?;
            }
        }
        if !self.read_only.get() {
            self.mark_dirty(false).await?;
        }
        stored
    }

    /// Writes all tables back, to make room in the cache.
    pub(in crate::qcow2) async fn write_back_tables(&self) -> IoResult<()> {
        let _guard = self.flushes.exclude().await;
        self.check_running()?;
        if !self.l2.is_crowded() {
            return Ok(());
        }
        self.write_tables(false).await
    }

    /// Writes refcount blocks back, to make room in the cache.
    pub(in crate::qcow2) async fn write_back_refcounts(&self) -> IoResult<()> {
        let _guard = self.flushes.exclude().await;
        self.check_running()?;
        let batch = self.refcounts.blocks.take_dirty();
        match self.write_all(&batch.writes, Kind::RefcountBlock).await {
            Ok(()) => {
                self.refcounts.blocks.written(&batch);
                Ok(())
            }
            Err(error) => {
                self.refcounts.blocks.restore(&batch);
                self.stop_after(&error);
                Err(error)
            }
        }
    }

    /// Steps 1 to 3, and with `durable` step 4. The caller excludes others.
    async fn write_tables(&self, durable: bool) -> IoResult<()> {
        let freed = self.freed.take_pending();
        // In this order nothing is missed: no await lies in between.
        let snapshot = Snapshot {
            l2: self.l2.take_dirty(),
            l1: self.l1.take_dirty(),
            refcount_blocks: self.refcount_blocks_to_write(),
            refcount_table: self.refcounts.table.take_dirty(),
        };
        match self.write_snapshot(&snapshot, durable).await {
            Ok(()) => {
                self.l2.written(&snapshot.l2);
                self.refcounts.blocks.written(&snapshot.refcount_blocks);
                if durable {
                    self.freed.settle(freed);
                } else {
                    self.freed.restore(freed);
                }
                Ok(())
            }
            Err(error) => {
                self.l2.restore(&snapshot.l2);
                self.l1.restore(snapshot.l1);
                self.refcounts.blocks.restore(&snapshot.refcount_blocks);
                self.refcounts.table.restore(snapshot.refcount_table);
                self.freed.restore(freed);
                self.stop_after(&error);
                Err(error)
            }
        }
    }

    /// Lazy refcounts are written when the image is closed, or to make room in the cache: until
    /// then it is marked dirty.
    fn refcount_blocks_to_write(&self) -> CacheBatch {
        if self.lazy {
            CacheBatch::default()
        } else {
            self.refcounts.blocks.take_dirty()
        }
    }

    async fn write_snapshot(&self, tables: &Snapshot, durable: bool) -> IoResult<()> {
        if self.geometry.external_data {
            self.flush_of(&self.data).await?;
        }
        self.write_all(&tables.refcount_blocks.writes, Kind::RefcountBlock)
            .await?;
        if !tables.refcount_table.writes.is_empty() {
            self.flush_file().await?;
            self.write_all(&tables.refcount_table.writes, Kind::RefcountTable)
                .await?;
        }
        let (l2, l1) = (&tables.l2.writes, &tables.l1.writes);
        if !l2.is_empty() || !l1.is_empty() {
            self.flush_file().await?;
            self.write_all(l2, Kind::L2).await?;
            self.write_all(l1, Kind::L1).await?;
        }
        if durable {
            self.flush_file().await?;
        }
        Ok(())
    }

    /// An fdatasync that fails may have lost writes for good, whatever its error (rule W6).
    pub(in crate::qcow2) async fn flush_file(&self) -> IoResult<()> {
        self.flush_of(&self.file).await
    }

    async fn flush_of(&self, file: &Storage) -> IoResult<()> {
        let result = file.flush().await;
        if let Err(error) = &result {
            self.stop(error);
        }
        result
    }

    /// Writes pieces of tables, adjacent ones together, each only where such a table lies.
    async fn write_all(&self, writes: &[(u64, Vec<u8>)], kind: Kind) -> IoResult<()> {
        let mut rest = writes;
        while let Some((offset, first)) = rest.first() {
            let mut bytes = first.clone();
            let mut count = 1;
            while let Some((next, more)) = rest.get(count)
                && *next == offset + bytes.len() as u64
            {
                bytes.extend_from_slice(more);
                count += 1;
            }
            self.check_table(*offset, bytes.len() as u64, kind)?;
            self.file.write(*offset, SgList::from_vec(bytes)).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn check_table(&self, offset: u64, len: u64, kind: Kind) -> IoResult<()> {
        let g = &self.geometry;
        let first = g.host_cluster(offset);
        let count = g.clusters_for(g.in_cluster(offset) + len);
        for cluster in (0..count).map(|n| first.plus(n)) {
            if self.metadata.at(cluster) != Some(kind) {
                return Err(self.corrupt(format!("{kind} would be written at {offset:#x}")));
            }
        }
        Ok(())
    }

    /// Checks that data at `offset` of the file lies on no metadata.
    pub(in crate::qcow2) fn check_data(&self, offset: u64, len: u64) -> IoResult<()> {
        let g = &self.geometry;
        if g.external_data {
            return Ok(());
        }
        let run = HostRun {
            first: g.host_cluster(offset),
            count: g.clusters_for(g.in_cluster(offset) + len),
        };
        let Some(kind) = self.metadata.find(run) else {
            return Ok(());
        };
        let error = self.corrupt(format!("data at {offset:#x} would overwrite {kind}"));
        self.stop_after(&error);
        Err(error)
    }

    /// Rule W3: gives up clusters whose entries are cleared on disk and that nobody reads or
    /// writes any more.
    ///
    /// # Errors
    /// Refcounts cannot be read or written. What is left waits for the next flush.
    async fn release_freed(&self) -> IoResult<()> {
        let mut runs = self.freed.take_releasable().into_iter();
        while let Some(mut run) = runs.next() {
            if let Err(error) = self.release(&mut run).await {
                self.freed.wait_again(iter::once(run).chain(runs));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives up a run, from which the clusters are taken that have been given up.
    async fn release(&self, run: &mut HostRun) -> IoResult<()> {
        self.stop_packing(*run);
        if self.discard {
            self.punch_unshared(*run).await?;
        }
        self.drop_each_reference(run).await
    }

    /// Gives the space of those clusters back to the host that have no other reference than the
    /// one about to be dropped. Nobody can be given them meanwhile.
    async fn punch_unshared(&self, run: HostRun) -> IoResult<()> {
        let g = &self.geometry;
        for part in self.unshared(run).await? {
            let (offset, len) = (g.host_offset(part.first), part.count * g.cluster_size());
            self.check_data(offset, len)?;
            if let Err(error) = self.file.punch_hole(offset, len).await {
                // The space stays in use on the host; nothing else is lost.
                tracing::warn!(%error, "a freed cluster could not be given back to the host");
            }
        }
        Ok(())
    }
}
