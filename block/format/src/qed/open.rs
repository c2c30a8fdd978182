//! Opening an image.

use std::cell::{Cell, RefCell};

use strata_exec::{mem::to_usize, sync::Lock};
use strata_storage::{
    Storage,
    error::{Error, Result},
};

use super::{
    Qed,
    flush::Flushes,
    header::{self, Features, Header},
};
use crate::{
    backing::{Backing, file_name},
    root_table::RootTable,
    stop::Stop,
    table_cache::TableCache,
};

/// Bytes of a table that are read at once: a cluster has as many at least.
pub(super) const SLICE: u64 = 4096;

impl Qed {
    /// Opens the image in `file`; at most about `cache_bytes` of L2 tables are kept in memory.
    /// One that was not closed cleanly is checked before it is written.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub async fn open(file: Storage, read_only: bool, cache_bytes: usize) -> Result<Self> {
        let path = file.path().to_owned();
        let refuse = |why: String| Error::Image {
            file: path.clone(),
            why,
        };
        let bytes = file.read_vec(0, header::LEN).await?;
        let bytes = bytes.first_chunk().expect("as many as were asked for");
        let header = Header::parse(bytes).map_err(refuse)?;
        let len = file.len();
        if header.l1_offset.saturating_add(header.table_bytes()) > len {
            return Err(refuse(format!(
                "is cut off: its L1 table at {:#x} lies behind its end",
                header.l1_offset
            )));
        }
        let backing = read_backing(&file, &header).await?.map_err(refuse)?;
        // Only as many entries as the disk needs: at most 16 MiB, as the fields go together.
        let count = header.image_size.div_ceil(header.l2_coverage());
        let l1 = RootTable::load(&file, header.l1_offset, to_usize(count)).await?;
        let image = Self {
            l2: TableCache::new(file.clone(), SLICE, cache_bytes),
            l1,
            end: Cell::new(len.next_multiple_of(header.cluster_size)),
            overhang: Cell::new(false),
            file,
            backing: RefCell::new(backing),
            header: RefCell::new(header),
            read_only: Cell::new(read_only),
            allocating: Lock::default(),
            flushes: Flushes::default(),
            stopped: Stop::default(),
        };
        if !read_only {
            image.make_writable().await?;
        }
        Ok(image)
    }

    /// Prepares an image that was opened read-only for being written, as if it had been opened so.
    /// Its file can be written and is kept from others. Readers may go on meanwhile.
    ///
    /// # Errors
    /// Why it cannot be written; the host's error. It is read-only then, as before.
    pub async fn prepare_writing(&self) -> Result<()> {
        self.check_running()?;
        if self.read_only.get() {
            self.make_writable().await?;
            self.read_only.set(false);
        }
        Ok(())
    }

    /// Checks an image that was not closed cleanly, and clears what only another program knows.
    async fn make_writable(&self) -> Result<()> {
        if self.is_dirty() {
            self.put_right().await?;
        }
        let mut header = self.header.borrow().clone();
        if header.autoclear != 0 {
            header.autoclear = 0;
            self.write_header(header).await?;
            self.flush_file().await?;
        }
        Ok(())
    }
}

async fn read_backing(
    file: &Storage,
    header: &Header,
) -> Result<std::result::Result<Option<Backing>, String>> {
    if !header.features.contains(Features::BACKING_FILE) {
        return Ok(Ok(None));
    }
    let (offset, len) = header.name;
    let bytes = file.read_vec(offset.into(), len as usize).await?;
    let name = file_name(&bytes);
    let raw = header.features.contains(Features::BACKING_FORMAT_NO_PROBE);
    Ok(name.map(|name| {
        Some(Backing {
            name,
            format: raw.then(|| "raw".to_owned()),
        })
    }))
}
