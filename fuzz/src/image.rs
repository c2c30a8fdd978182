//! An image of any format on a file in memory, with nothing below it.

use strata_exec::mem::SgList;
use strata_format::{
    backing::Backing,
    below::Below,
    check::{CheckReport, Repair},
    extent::{Extent, ExtentKind},
    qcow2::{Damaged, DataFile, OpenOptions, Qcow2},
    qed::Qed,
};
use strata_storage::{
    Storage,
    error::{IoResult, Result},
};

use super::support::Files;

/// Cache small enough that tables are written back in the middle of things.
const CACHE: usize = 16 << 10;

/// An open image.
pub enum Image {
    /// As its magic number says.
    Qcow2(Box<Qcow2>),
    /// Likewise.
    Qed(Box<Qed>),
}

impl Image {
    /// Opens what the image's file holds: QED if its magic number says so, qcow2 otherwise.
    pub async fn open(files: &Files, read_only: bool) -> Result<Self> {
        let storage = Storage::Sim(files.image.clone());
        if storage.read_vec(0, 4).await? == *b"QED\0" {
            let image = Qed::open(storage, read_only, CACHE).await?;
            return Ok(Self::Qed(Box::new(image)));
        }
        let options = OpenOptions {
            read_only,
            cache_bytes: CACHE,
            discard: true,
            damaged: if read_only {
                Damaged::Repaired
            } else {
                Damaged::Refused
            },
        };
        let image = match DataFile::of(&storage).await? {
            Some(_) => {
                let data = Storage::Sim(files.data.clone());
                Qcow2::open_with_data(storage, data, options).await?
            }
            None => Qcow2::open(storage, options).await?,
        };
        Ok(Self::Qcow2(Box::new(image)))
    }

    /// Bytes of the virtual disk.
    pub fn size(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.virtual_size(),
            Self::Qed(image) => image.virtual_size(),
        }
    }

    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.cluster_size(),
            Self::Qed(image) => image.cluster_size(),
        }
    }

    /// The backing file that the header names.
    pub fn backing(&self) -> Option<Backing> {
        match self {
            Self::Qcow2(image) => image.backing(),
            Self::Qed(image) => image.backing(),
        }
    }

    /// Names another backing file.
    pub async fn set_backing(&self, backing: Option<Backing>) -> Result<()> {
        match self {
            Self::Qcow2(image) => image.set_backing(backing).await,
            Self::Qed(image) => image.set_backing(backing).await,
        }
    }

    /// What lies at `offset`, for at most `len` bytes.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        let extent = match self {
            Self::Qcow2(image) => image.extent(offset, len).await?,
            Self::Qed(image) => image.extent(offset, len).await?,
        };
        assert!(
            (1..=len).contains(&extent.len),
            "an extent of {} bytes in {len}",
            extent.len
        );
        Ok(extent)
    }

    /// Reads; what this layer does not hold comes from `below`.
    pub async fn read(&self, offset: u64, len: usize, below: &dyn Below) -> IoResult<Vec<u8>> {
        let _pin = match self {
            Self::Qcow2(image) => Some(image.pin()),
            Self::Qed(_) => None,
        };
        let data = SgList::zeroed(len);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let extent = self.extent(at, (len - done) as u64).await?;
            let part = data.slice(done, extent.len as usize);
            done += part.len();
            match (self, extent.kind) {
                (Self::Qcow2(image), ExtentKind::Data { host_offset }) => {
                    image.data_storage().read(host_offset, part).await?;
                }
                (Self::Qcow2(image), ExtentKind::Compressed) => {
                    image.read_compressed(at, part).await?;
                }
                (Self::Qed(image), ExtentKind::Data { host_offset }) => {
                    image.file().read(host_offset, part).await?;
                }
                (Self::Qed(_), ExtentKind::Compressed) => unreachable!("QED has no compression"),
                (_, ExtentKind::Unallocated) => below.read_below(at, part).await?,
                (_, ExtentKind::Zero) => part.fill(0, part.len(), 0),
            }
        }
        Ok(data.to_vec())
    }

    /// Writes.
    pub async fn write(&self, offset: u64, bytes: Vec<u8>, below: &dyn Below) -> IoResult<()> {
        let data = SgList::from_vec(bytes);
        match self {
            Self::Qcow2(image) => image.write(offset, data, below).await,
            Self::Qed(image) => image.write(offset, data, below).await,
        }
    }

    /// Makes a range zero.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        match self {
            Self::Qcow2(image) => image.write_zeroes(offset, len, unmap, below).await,
            Self::Qed(image) => image.write_zeroes(offset, len, unmap, below).await,
        }
    }

    /// Gives up a range.
    pub async fn discard(&self, offset: u64, len: u64, below: &dyn Below) -> IoResult<()> {
        match self {
            Self::Qcow2(image) => image.discard(offset, len, below).await,
            Self::Qed(image) => image.discard(offset, len).await,
        }
    }

    /// Writes where nothing is.
    pub async fn write_if_unallocated(
        &self,
        offset: u64,
        bytes: Vec<u8>,
        below: &dyn Below,
    ) -> IoResult<()> {
        let data = SgList::from_vec(bytes);
        match self {
            Self::Qcow2(image) => image.write_if_unallocated(offset, data, below).await,
            Self::Qed(image) => image.write_if_unallocated(offset, data, below).await,
        }
    }

    /// Makes the disk longer or shorter.
    pub async fn resize(&self, size: u64, below: &dyn Below) -> Result<()> {
        match self {
            Self::Qcow2(image) => image.resize(size, below).await,
            Self::Qed(image) => image.resize(size, below).await,
        }
    }

    /// Gives up all that it holds.
    pub async fn make_empty(&self) -> IoResult<()> {
        match self {
            Self::Qcow2(image) => image.make_empty().await,
            Self::Qed(image) => image.make_empty().await,
        }
    }

    /// Whether it was not closed cleanly.
    pub fn is_dirty(&self) -> bool {
        match self {
            Self::Qcow2(image) => image.is_dirty(),
            Self::Qed(image) => image.is_dirty(),
        }
    }

    /// Checks it as it is in its file.
    pub async fn check(&self) -> IoResult<CheckReport> {
        match self {
            Self::Qcow2(image) => image.check().await,
            Self::Qed(image) => image.check().await,
        }
    }

    /// Checks it, and repairs it in its file; what is in memory is stale then.
    pub async fn repair(&self, what: Repair) -> IoResult<CheckReport> {
        match self {
            Self::Qcow2(image) => image.repair(what).await,
            Self::Qed(image) => image.repair(what).await,
        }
    }

    /// Its persistent bitmaps: name, granularity, bytes that are dirty, whether they record.
    pub fn describe_bitmaps(&self) -> Vec<(String, u64, u64, bool)> {
        let Self::Qcow2(image) = self else {
            return Vec::new();
        };
        let bitmaps = image.bitmaps().list().into_iter();
        let bitmaps = bitmaps.map(|bitmap| {
            let name = bitmap.name().to_owned();
            let (granularity, dirty) = (bitmap.granularity(), bitmap.count());
            (name, granularity, dirty, bitmap.is_recording())
        });
        bitmaps.collect()
    }

    /// Makes everything durable.
    pub async fn flush(&self) -> IoResult<()> {
        match self {
            Self::Qcow2(image) => image.flush().await,
            Self::Qed(image) => image.flush().await,
        }
    }

    /// Makes everything durable, and what has been put off, too.
    pub async fn close(&self) -> Result<()> {
        match self {
            Self::Qcow2(image) => image.close().await,
            Self::Qed(image) => image.close().await,
        }
    }
}
