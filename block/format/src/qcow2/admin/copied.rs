//! Keeping COPIED flags in step with refcounts that have changed.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::IoResult;

use crate::qcow2::{
    Qcow2,
    layout::{
        entry::Entry,
        geometry::{GuestCluster, HostCluster},
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
        for index in 0..self.tables.l1_len() {
            let Some(table) = self.tables.l1_entry(index)? else {
                continue;
            };
            let copied = self.wanted_flag(flags, table.host).await?;
            if copied != table.copied {
                self.tables.toggle_l1_copied(index);
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
        Ok(flags == Flags::Refcount && self.space.refcount(host).await? == 1)
    }

    /// Does the slice of the table in `table` that starts with the entry of `first`.
    async fn update_slice(
        &self,
        flags: Flags,
        table: HostCluster,
        first: GuestCluster,
    ) -> IoResult<()> {
        let g = &self.geometry;
        self.order.make_room().await?;
        let slice = self.tables.slice(table, first).await?;
        for index in 0..to_usize(g.slice_entries()) {
            let entry = self.tables.entry(&slice, index)?;
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
                self.tables.set_entry(&slice, index, entry);
            }
        }
        Ok(())
    }
}
