//! Writing tables and the header back, in the order that survives a crash at any moment.

use std::cell::Cell;

use strata_exec::sync::Lock;
use strata_storage::error::{Error, IoResult, Result};

use super::{
    Qed,
    header::{Features, Header},
};
use crate::backing::Backing;

/// Flushes of one image: one at a time, shared by those who wait for it.
#[derive(Default)]
pub(super) struct Flushes {
    lock: Lock,
    started: Cell<u64>,
    /// Number of the last flush that succeeded.
    done: Cell<u64>,
}

impl Qed {
    /// Makes everything durable that was acknowledged before the call.
    ///
    /// # Errors
    /// The host's error. After one of metadata the image is not written any more (rule W6).
    pub async fn flush(&self) -> IoResult<()> {
        if self.read_only.get() {
            return Ok(());
        }
        self.check_running()?;
        let wanted = self.flushes.started.get() + 1;
        let _guard = self.flushes.lock.lock().await;
        if self.flushes.done.get() >= wanted {
            return Ok(());
        }
        self.check_running()?;
        let number = self.flushes.started.get() + 1;
        self.flushes.started.set(number);
        self.write_tables().await?;
        self.flush_file().await?;
        self.flushes.done.set(number);
        Ok(())
    }

    /// Flushes, and says in the header that the image is clean.
    ///
    /// # Errors
    /// As [`Qed::flush`].
    pub async fn close(&self) -> Result<()> {
        self.flush().await?;
        if self.overhang.get() {
            self.cut_overhang().await?;
        }
        if !self.read_only.get() && self.is_dirty() {
            self.mark_clean().await?;
        }
        Ok(())
    }

    /// Gives back what requests that failed have left behind the last cluster.
    async fn cut_overhang(&self) -> IoResult<()> {
        let _guard = self.allocating.lock().await;
        if self.end.get() < self.file.len() {
            self.file.cut_off(self.end.get()).await?;
            self.flush_file().await?;
        }
        self.overhang.set(false);
        Ok(())
    }

    /// Clears `NEED_CHECK`; all that it stands for is durable.
    pub(super) async fn mark_clean(&self) -> IoResult<()> {
        let mut header = self.header.borrow().clone();
        header.features.remove(Features::NEED_CHECK);
        self.write_header(header).await?;
        self.flush_file().await
    }

    /// Writes tables back if most of the cache waits for that. The caller allocates.
    pub(super) async fn make_room(&self) -> IoResult<()> {
        if !self.l2.is_crowded() {
            return Ok(());
        }
        let _guard = self.flushes.lock.lock().await;
        self.check_running()?;
        self.write_tables().await
    }

    /// Writes the tables as they are now: when what they name is durable, L2 before L1.
    async fn write_tables(&self) -> IoResult<()> {
        let (l2, l1) = (self.l2.take_dirty(), self.l1.take_dirty());
        if l2.writes.is_empty() && l1.writes.is_empty() {
            return Ok(());
        }
        let result = async {
            // New tables are durable and empty then, so L1 may name them at any time after.
            self.flush_file().await?;
            for (offset, bytes) in l2.writes.iter().chain(&l1.writes) {
                self.file.write_vec(*offset, bytes.clone()).await?;
            }
            Ok(())
        }
        .await;
        match &result {
            Ok(()) => self.l2.written(&l2),
            Err(error) => {
                self.l2.restore(&l2);
                self.l1.restore(l1);
                self.stop_after(error);
            }
        }
        result
    }

    /// An fdatasync that fails may have lost writes for good, whatever its error (rule W6).
    pub(super) async fn flush_file(&self) -> IoResult<()> {
        let result = self.file.flush().await;
        if let Err(error) = &result {
            self.stop(error);
        }
        result
    }

    /// Writes the header's fields. After an error the ones in memory are the old ones, as in the
    /// file if there was no room.
    pub(super) async fn write_header(&self, header: Header) -> IoResult<()> {
        self.write_metadata(0, header.to_bytes()).await?;
        *self.header.borrow_mut() = header;
        Ok(())
    }

    async fn write_metadata(&self, offset: u64, bytes: Vec<u8>) -> IoResult<()> {
        let result = self.file.write_vec(offset, bytes).await;
        if let Err(error) = &result {
            self.stop_after(error);
        }
        result
    }

    /// Names another backing file in the header, after everything that it stands for has become
    /// durable (rule W5).
    ///
    /// # Errors
    /// The name is too long, the image is read-only, or the host's error.
    pub async fn set_backing(&self, backing: Option<Backing>) -> Result<()> {
        self.begin_write()?;
        self.flush().await?;
        // Nobody else changes the header meanwhile.
        let _guard = self.allocating.lock().await;
        let mut header = self.header.borrow().clone();
        let layout = header.set_backing(backing.as_ref());
        let layout = layout.map_err(|why| Error::Image {
            file: self.file.path().to_owned(),
            why,
        })?;
        if let Some((offset, name)) = layout.tail {
            self.write_metadata(offset, name).await?;
            self.flush_file().await?;
        }
        self.write_metadata(0, layout.head).await?;
        *self.header.borrow_mut() = header;
        // What the header can say: the format only where it is raw.
        *self.backing.borrow_mut() = backing.map(|backing| Backing {
            format: backing.format.filter(|format| format == "raw"),
            ..backing
        });
        Ok(self.flush_file().await?)
    }
}
