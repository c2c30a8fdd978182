//! When what is written: tables go to the file in the order of rules W1 to W4, and the header
//! changes once what it names is durable (W5).
//!
//! Lies on [`file`](super::file), [`space`](super::space) and [`tables`](super::tables).

mod flush;
mod l1_table;

use std::{cell::Cell, rc::Rc};

use strata_storage::error::{IoError, IoResult, Result};

use crate::{
    qcow2::{
        file::ImageFile,
        layout::{
            geometry::{Geometry, GuestCluster},
            header_area::HeaderArea,
        },
        space::Space,
        tables::Tables,
    },
    table_cache::Slice,
};

/// The order of writes to an open image.
pub(in crate::qcow2) struct Order {
    file: Rc<ImageFile>,
    space: Rc<Space>,
    tables: Rc<Tables>,
    geometry: Geometry,
    /// Number of the last flush that was started.
    started: Cell<u64>,
    /// Number of the last flush that succeeded.
    done: Cell<u64>,
}

impl Order {
    /// The order in which `space` and `tables` reach their file.
    pub fn new(file: Rc<ImageFile>, space: Rc<Space>, tables: Rc<Tables>) -> Self {
        let geometry = *file.geometry();
        Self {
            file,
            space,
            tables,
            geometry,
            started: Cell::new(0),
            done: Cell::new(0),
        }
    }

    /// The slice that holds the L2 entry of `cluster`, in a table with refcount one.
    pub async fn slice_for_write(&self, cluster: GuestCluster) -> IoResult<Rc<Slice>> {
        self.make_room().await?;
        self.tables.slice_for_write(cluster).await
    }

    /// Changes the first cluster of the image, once everything else is durable: see
    /// [`ImageFile::change_area`].
    ///
    /// # Errors
    /// What `change` says; the host's error.
    pub async fn change_area(
        &self,
        change: impl FnOnce(&mut HeaderArea) -> std::result::Result<(), String>,
        stop: fn(&ImageFile, &IoError),
    ) -> Result<()> {
        self.flush().await?;
        self.file.change_area(change, stop).await
    }

    /// Sets or clears the mark that refcounts may be stale. Before it is cleared they are written;
    /// all that was written is durable then (rule W5).
    pub async fn mark_dirty(&self, dirty: bool) -> IoResult<()> {
        if !dirty && self.file.is_dirty() {
            self.space.write_back_refcounts().await?;
        }
        self.file.set_dirty(dirty).await
    }
}
