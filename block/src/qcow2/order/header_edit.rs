//! Changing the header of an open image (rule W5: flush, write, flush).

use crate::{
    backing::Backing,
    error::{Error, IoError, IoResult, Result},
    qcow2::{
        Qcow2,
        data::data_file,
        layout::{geometry::HostRun, header::Incompatible, header_area::HeaderArea},
        space::metadata_map::Kind,
    },
};

impl Qcow2 {
    /// Prepares for the first write: clears the autoclear bits that this program does not keep up to
    /// date, marks the image dirty if refcounts are written lazily, and its bitmaps as in use.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or the header cannot be written.
    pub(in crate::qcow2) async fn begin_write(&self) -> IoResult<()> {
        if self.read_only.get() {
            return Err(IoError::ReadOnly);
        }
        self.check_running()?;
        if self.write_ready.get() {
            return Ok(());
        }
        let _edit = self.header_edit.lock().await;
        // Whoever held it before may have failed, or done it.
        self.check_running()?;
        if self.write_ready.get() {
            return Ok(());
        }
        let mut area = self.area.borrow().clone();
        let before = area.header.clone();
        let kept = self.bitmaps.autoclear_bit() | data_file::autoclear_bit(&area.header);
        area.header.autoclear &= kept;
        if self.lazy {
            area.header.incompatible |= Incompatible::DIRTY;
        }
        if area.header != before {
            self.write_fields(area).await?;
        }
        self.mark_bitmaps_in_use().await?;
        self.bitmaps.unstored.set(true);
        self.write_ready.set(true);
        Ok(())
    }

    /// Sets or clears the mark that refcounts may be stale. Before it is cleared they are written;
    /// all that was written is durable then (rule W5).
    pub(in crate::qcow2) async fn mark_dirty(&self, dirty: bool) -> IoResult<()> {
        if !dirty && self.is_dirty() {
            self.write_back_refcounts().await?;
        }
        let _edit = self.header_edit.lock().await;
        let mut area = self.area.borrow().clone();
        let bits = &mut area.header.incompatible;
        if bits.contains(Incompatible::DIRTY) == dirty {
            return Ok(());
        }
        bits.set(Incompatible::DIRTY, dirty);
        self.write_fields(area).await?;
        if self.lazy {
            // The next write marks it again.
            self.write_ready.set(false);
        }
        Ok(())
    }

    /// Changes the backing file that the header names, once everything else is durable. After an
    /// error of the host the image is not written any more.
    ///
    /// # Errors
    /// The name does not fit; the image is read-only; the host's error.
    pub async fn set_backing(&self, backing: Option<Backing>) -> Result<()> {
        if backing.is_some() && self.has_raw_data() {
            return Err(Error::Image {
                file: self.file.path().to_owned(),
                why: "has a raw external data file, so it cannot have a backing file".into(),
            });
        }
        self.begin_write().await?;
        self.change_area(|area| area.set_backing(backing.as_ref()), Self::stop_after)
            .await
    }

    /// Changes the first cluster, once everything else is durable. The host's errors are told to
    /// `stop`: a caller knows whether the file may have either version afterwards.
    ///
    /// # Errors
    /// What `change` says; the host's error.
    pub(in crate::qcow2) async fn change_area(
        &self,
        change: impl FnOnce(&mut HeaderArea) -> std::result::Result<(), String>,
        stop: fn(&Self, &IoError),
    ) -> Result<()> {
        self.flush().await?;
        let _edit = self.header_edit.lock().await;
        let mut area = self.area.borrow().clone();
        change(&mut area).map_err(|why| Error::Image {
            file: self.file.path().to_owned(),
            why,
        })?;
        let written = self.write_area(&area).await;
        if let Err(error) = &written {
            stop(self, error);
        }
        written?;
        *self.area.borrow_mut() = area;
        Ok(())
    }

    /// Writes the first cluster anew. The caller holds `header_edit`, and has made durable what the
    /// header is going to name.
    async fn write_area(&self, area: &HeaderArea) -> IoResult<()> {
        let layout = area.layout();
        if let Some((offset, bytes)) = layout.tail {
            self.file.write_vec(offset, bytes).await?;
            self.flush_file().await?;
        }
        self.file.write_vec(0, layout.head).await?;
        self.flush_file().await
    }

    /// Writes changed fields of the header. The caller holds `header_edit`.
    pub(in crate::qcow2) async fn write_fields(&self, area: HeaderArea) -> IoResult<()> {
        let result = async {
            self.flush_file().await?;
            self.file.write_vec(0, area.header.to_bytes()).await?;
            self.flush_file().await
        }
        .await;
        if let Err(error) = &result {
            self.stop_after(error);
        }
        result?;
        *self.area.borrow_mut() = area;
        Ok(())
    }

    /// Moves the refcount table to `to`, with `blocks` named from entry `index` on; they are in
    /// the file already. The flush before the header is written makes both durable (rule W4).
    pub(in crate::qcow2) async fn relocate_refcount_table(
        &self,
        to: HostRun,
        blocks: HostRun,
        index: u64,
    ) -> IoResult<()> {
        let _writing = self.flushes.exclude().await;
        let _edit = self.header_edit.lock().await;
        let g = &self.geometry;
        let len = to.count * g.cluster_size() / 8;
        let mut entries = self.refcounts.table.entries();
        entries.resize(len as usize, 0);
        for n in 0..blocks.count {
            entries[(index + n) as usize] = g.host_offset(blocks.first.plus(n));
        }
        self.note_metadata(to, Kind::RefcountTable)?;
        let offset = g.host_offset(to.first);
        let bytes = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        let mut area = self.area.borrow().clone();
        area.header.refcount_table_offset = offset;
        area.header.refcount_table_clusters = to.count as u32;
        let result = match self.file.write_vec(offset, bytes).await {
            Ok(()) => self.write_fields(area).await,
            failed => failed,
        };
        if result.is_err() {
            self.metadata.remove(to);
            return result;
        }
        self.refcounts.table.moved(offset, entries);
        Ok(())
    }
}
