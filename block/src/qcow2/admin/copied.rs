//! Keeping COPIED flags in step with refcounts that have changed.

use crate::{
    error::IoResult,
    exec::yield_now,
    qcow2::{
        Qcow2,
        layout::{
            entry::{self, COPIED, Entry},
            geometry::{GuestCluster, HostCluster},
        },
    },
};

/// What flags are to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    /// Whether the refcount is one.
    Refcount,
    /// Nothing.
    Clear,
}

impl Qcow2 {
    /// Sets the flags of the active L1 table and of its L2 tables exactly where the refcount is
    /// one, and makes that durable, after the refcounts. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The tables cannot be read or written, or are corrupt.
    pub(in crate::qcow2) async fn update_copied_flags(&self) -> IoResult<()> {
        self.set_copied_flags(Flags::Refcount).await
    }

    /// Clears them all, durably: then refcounts may go up.
    ///
    /// # Errors
    /// As [`Qcow2::update_copied_flags`].
    pub(in crate::qcow2) async fn clear_copied_flags(&self) -> IoResult<()> {
        self.set_copied_flags(Flags::Clear).await
    }

    async fn set_copied_flags(&self, flags: Flags) -> IoResult<()> {
        let g = &self.geometry;
        for index in 0..self.l1.len() {
            let raw = self.l1.get(index);
            let table = entry::decode_l1(raw, g).map_err(|why| self.corrupt(why))?;
            let Some(table) = table else { continue };
            let copied = self.wanted_flag(flags, table.host).await?;
            if copied != table.copied {
                self.l1.set(index, raw ^ COPIED);
            }
            if g.external_data {
                continue;
            }
            let first = index as u64 * g.l2_entries();
            for slice in 0..g.l2_entries() / g.slice_entries() {
                let first = GuestCluster(first + slice * g.slice_entries());
                self.update_slice(flags, table.host, first).await?;
            }
            yield_now().await;
        }
        self.flush().await
    }

    async fn wanted_flag(&self, flags: Flags, host: HostCluster) -> IoResult<bool> {
        Ok(flags == Flags::Refcount && self.refcount(host).await? == 1)
    }

    /// Does the slice of the table in `table` that starts with the entry of `first`.
    async fn update_slice(
        &self,
        flags: Flags,
        table: HostCluster,
        first: GuestCluster,
    ) -> IoResult<()> {
        let g = &self.geometry;
        if self.l2.is_crowded() {
            self.write_back_tables().await?;
        }
        let offset = g.host_offset(table) + g.slice_in_table(first);
        let slice = self.l2.get(offset).await?;
        for index in 0..g.slice_entries() as usize {
            let entry = self.l2_entry(&slice, index);
            let entry = entry.map_err(|why| self.corrupt(why))?;
            let Entry::Plain {
                host: Some((host, copied)),
                data,
                zero,
            } = entry
            else {
                continue;
            };
            let unshared = self.wanted_flag(flags, host).await?;
            if unshared != copied {
                let host = Some((host, unshared));
                let entry = Entry::Plain { host, data, zero };
                self.set_l2_entry(&slice, index, entry);
            }
        }
        Ok(())
    }
}
