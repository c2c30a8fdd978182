//! Growing the disk. The header's size changes last, so that after a crash the disk has its old or
//! its new size, and what is new reads as zeros.

use strata_exec::mem::to_usize;
use strata_storage::error::{Error, IoResult, Result};

use super::Qed;
use crate::below::{Below, Nothing};

impl Qed {
    /// Changes the size of the disk to `size` bytes. What is added reads as zeros, whatever lies
    /// below. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The size is smaller than the old one (as with QEMU), or none that the tables allow; the
    /// host's error.
    pub async fn resize(&self, size: u64, below: &dyn Below) -> Result<()> {
        self.begin_write()?;
        let refused = |why: &str| Error::Image {
            file: self.file.path().to_owned(),
            why: why.into(),
        };
        let old = self.virtual_size();
        if size < old {
            return Err(refused("Shrinking images is currently not supported"));
        }
        let mut header = self.header.borrow().clone();
        header.image_size = size;
        if header.check().is_err() {
            return Err(refused("Invalid image size specified"));
        }
        if size > old {
            self.flush().await?;
            self.read_more_of_l1(size).await?;
            // Not later: the header that says so would have the new size already.
            self.mark_dirty().await?;
            self.header.borrow_mut().image_size = size;
            let result = self.blank_and_tell(old, size, below).await;
            if result.is_err() {
                self.header.borrow_mut().image_size = old;
            }
            result?;
        }
        Ok(())
    }

    /// As many entries are kept in memory as the disk needs; the file has them all. Those that are
    /// added name nothing: a table that a crash has left there belongs to nobody, and its place may
    /// have been given to others.
    async fn read_more_of_l1(&self, size: u64) -> IoResult<()> {
        let (offset, coverage) = {
            let header = self.header.borrow();
            (header.l1_offset, header.l2_coverage())
        };
        let have = self.l1.len() as u64;
        let missing = size.div_ceil(coverage).saturating_sub(have);
        let at = offset + have * 8;
        let bytes = self.file.read_vec(at, to_usize(missing) * 8).await?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut entries = self.l1.entries();
        entries.resize(entries.len() + words.len(), 0);
        self.l1.moved(offset, entries);
        // Durable before the header has the new size.
        for (n, _) in words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != [0; 8])
        {
            self.l1.set(to_usize(have) + n, 0);
        }
        Ok(())
    }

    async fn blank_and_tell(&self, old: u64, size: u64, below: &dyn Below) -> IoResult<()> {
        let cluster_size = self.cluster_size();
        let shown = below.visible_len().min(size);
        let shown = shown.next_multiple_of(cluster_size).clamp(old, size);
        self.write_zeroes(old, shown - old, true, below).await?;
        self.write_zeroes(shown, size - shown, true, &Nothing)
            .await?;
        self.flush().await?;
        let _guard = self.allocating.lock().await;
        let header = self.header.borrow().clone();
        self.write_header(header).await?;
        self.flush_file().await
    }
}
