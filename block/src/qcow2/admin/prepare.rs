//! An open image that was not to be written becomes writable.

use super::open::{cannot_be_written, in_need_of_repair, map_for_writing, writing_refused};
use crate::{
    error::{Error, Result},
    qcow2::Qcow2,
};

impl Qcow2 {
    /// Prepares an image that was opened read-only for being written, as if it had been opened so.
    /// Its file can be written and is kept from others. Readers may go on meanwhile.
    ///
    /// Nothing is written, unless the image was not closed cleanly: then its refcounts are counted
    /// anew. What the first write has to change in the header comes with that.
    ///
    /// # Errors
    /// Why it cannot be written, and what to do; the host's error. It is read-only then, as before.
    pub async fn prepare_writing(&self) -> Result<()> {
        self.check_running()?;
        if !self.read_only.get() {
            return Ok(());
        }
        let header = self.area.borrow().header.clone();
        let refuse = |why: String| Error::Image {
            file: self.file.path().to_owned(),
            why,
        };
        if !self.readable {
            return Err(refuse("has been opened for its header only".to_owned()));
        }
        if let Some(why) = &self.lost_refcounts {
            return Err(refuse(in_need_of_repair(why.clone())));
        }
        header
            .check_snapshot_table(self.file.len())
            .map_err(|why| refuse(in_need_of_repair(why)))?;
        if let Some(why) = writing_refused(&header) {
            return Err(refuse(why));
        }
        let tables = map_for_writing(&self.file, &header, &self.l1, &self.refcounts.table).await?;
        // So far the map holds the bitmaps alone, which were found to lie on nothing but each other.
        self.metadata
            .absorb(&tables)
            .map_err(|(new, old)| refuse(cannot_be_written(&format!("{new} overlaps {old}"))))?;
        self.read_only.set(false);
        let result = match self.is_dirty() {
            true => self.rebuild_refcounts().await,
            false => Ok(()),
        };
        if result.is_err() {
            self.read_only.set(true);
            self.metadata.give_up(&tables);
        }
        result
    }
}
