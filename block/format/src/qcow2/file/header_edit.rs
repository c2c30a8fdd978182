//! Changing the header of an open image (rule W5: flush, write, flush).

use strata_storage::error::{IoError, IoResult, Result};

use super::ImageFile;
use crate::qcow2::layout::{
    header::{Header, Incompatible},
    header_area::HeaderArea,
};

impl ImageFile {
    /// Prepares for the first write: clears the autoclear bits that this program does not keep up
    /// to date, marks the image dirty if refcounts are written lazily, and its bitmaps as in use.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or the header cannot be written.
    pub async fn begin_write(&self) -> IoResult<()> {
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
        let kept = self.bitmaps.autoclear_bit() | area.header.raw_data_bit();
        area.header.autoclear &= kept;
        if self.lazy {
            area.header.incompatible |= Incompatible::DIRTY;
        }
        if area.header != before {
            self.write_fields(area).await?;
        }
        self.mark_bitmaps_in_use().await?;
        self.bitmaps.set_unstored(true);
        self.write_ready.set(true);
        Ok(())
    }

    /// The header is to be prepared again before the next write: see [`ImageFile::begin_write`].
    pub fn end_writes(&self) {
        self.write_ready.set(false);
    }

    /// Marks the bitmaps as in use: durable when this returns. The caller holds `header_edit`.
    async fn mark_bitmaps_in_use(&self) -> IoResult<()> {
        let Some((offset, bytes)) = self.bitmaps.marked() else {
            return Ok(());
        };
        let result = async {
            self.flush().await?;
            self.storage.write_vec(offset, bytes).await?;
            self.flush().await
        };
        let result = result.await;
        if let Err(error) = &result {
            self.stop(error);
        }
        result
    }

    /// Sets or clears the mark that refcounts may be stale; all that was written is durable then
    /// (rule W5). Before it is cleared the caller has written them.
    pub async fn set_dirty(&self, dirty: bool) -> IoResult<()> {
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
            self.end_writes();
        }
        Ok(())
    }

    /// Changes fields of the header. The caller has made durable what they are going to name; so
    /// has the flush before the header is written.
    pub async fn change_header(&self, change: impl FnOnce(&mut Header)) -> IoResult<()> {
        let _edit = self.header_edit.lock().await;
        let mut area = self.area.borrow().clone();
        change(&mut area.header);
        self.write_fields(area).await
    }

    /// Changes the first cluster. The caller has made durable what it is going to name. The host's
    /// errors are passed to `stop`: a caller knows whether the file may have either version
    /// afterwards.
    ///
    /// # Errors
    /// What `change` says; the host's error.
    pub async fn change_area(
        &self,
        change: impl FnOnce(&mut HeaderArea) -> std::result::Result<(), String>,
        stop: fn(&Self, &IoError),
    ) -> Result<()> {
        let _edit = self.header_edit.lock().await;
        let mut area = self.area.borrow().clone();
        change(&mut area).map_err(|why| self.refused(why))?;
        let written = self.write_area(&area).await;
        if let Err(error) = &written {
            stop(self, error);
        }
        written?;
        *self.area.borrow_mut() = area;
        Ok(())
    }

    /// Writes the first cluster anew. The caller holds `header_edit`.
    async fn write_area(&self, area: &HeaderArea) -> IoResult<()> {
        let layout = area.layout();
        if let Some((offset, bytes)) = layout.tail {
            self.storage.write_vec(offset, bytes).await?;
            self.flush().await?;
        }
        self.storage.write_vec(0, layout.head).await?;
        self.flush().await
    }

    /// Writes changed fields of the header. The caller holds `header_edit`.
    async fn write_fields(&self, area: HeaderArea) -> IoResult<()> {
        let result = async {
            self.flush().await?;
            self.storage.write_vec(0, area.header.to_bytes()).await?;
            self.flush().await
        }
        .await;
        if let Err(error) = &result {
            self.stop_after(error);
        }
        result?;
        *self.area.borrow_mut() = area;
        Ok(())
    }

    /// Writes another header, durably, for a repair: also in an image that has been opened
    /// read-only. The caller has made durable what it names, and nothing else uses the image.
    pub async fn repair_header(&self, header: Header) -> IoResult<()> {
        self.storage.write_vec(0, header.to_bytes()).await?;
        self.storage.flush().await?;
        self.area.borrow_mut().header = header;
        Ok(())
    }
}
