//! Changing the options of an image in place: version, width of refcounts, lazy refcounts, external
//! data file, size.
//!
//! Each change ends with one write of the header (rule W5). Before it the image is what it was,
//! with space more in use at most; after it, it is the new one. What the tables are read by (the
//! version, the width of refcounts) does not change under an open image: the image is opened anew
//! in the same file, which stays locked.

mod refcount_width;
mod version;
mod zero_clusters;

use std::ffi::OsString;

use strata_storage::{Storage, error::Result};

use crate::{
    below::Below,
    qcow2::{
        DataFile, OpenOptions, Qcow2,
        file::ImageFile,
        layout::{
            header::{AUTOCLEAR_RAW_DATA, LAZY_REFCOUNTS},
            header_area::HeaderArea,
        },
    },
};

/// The width of refcounts, in bits, that version 2 has.
const VERSION_2_BITS: u32 = 16;

/// What is to become of an image's options; `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amend {
    /// Version of the format: 2 or 3.
    pub version: Option<u32>,
    /// Width of a refcount in bits: a power of two up to 64, and 16 for version 2.
    pub refcount_bits: Option<u32>,
    /// Others may postpone refcount updates (version 3).
    pub lazy_refcounts: Option<bool>,
    /// How the header names the external data file; nothing for an empty name: then the user who
    /// opens the image has to say where it is.
    pub data_file: Option<OsString>,
    /// Whether the external data file is an image of the disk in itself: that can only be given up.
    pub data_file_raw: Option<bool>,
    /// The backing file's name: it has to be the one that there is.
    pub backing: Option<OsString>,
    /// The backing file's format: the same.
    pub backing_format: Option<String>,
    /// Bytes of the disk.
    pub size: Option<u64>,
}

/// An image between two changes.
struct Amending<'a> {
    file: &'a Storage,
    data: Option<&'a Storage>,
    options: OpenOptions,
}

/// Changes the options of the image in `file`, whose external data file, if it has one, is `data`.
/// Nothing else has it open; `below` is what lies below it. `progress` is called with how much of
/// the work is done. All is durable when this returns.
///
/// # Errors
/// What cannot be had, before anything has been changed; the host's error, after which the image is
/// what it was, or some of the changes have been made.
pub async fn amend(
    file: &Storage,
    data: Option<&Storage>,
    options: OpenOptions,
    changes: &Amend,
    below: &dyn Below,
    progress: &dyn Fn(u64, u64),
) -> Result<()> {
    let amending = Amending {
        file,
        data,
        options,
    };
    let mut image = amending.open().await?;
    image.check_amend(changes).await?;
    let before = image.version();
    let version = changes.version.unwrap_or(before);
    if version > before {
        image.upgrade().await?;
        image = amending.open().await?;
    }
    if let Some(bits) = changes
        .refcount_bits
        .filter(|bits| *bits != image.refcount_bits())
    {
        let old = image.change_refcount_width(bits.trailing_zeros()).await?;
        image = amending.open().await?;
        image.free_refcounts(&old).await?;
    }
    image.amend_data_file(changes).await?;
    if let Some(lazy) = changes.lazy_refcounts
        && lazy != image.file.is_lazy()
    {
        image.set_lazy(lazy).await?;
        image = amending.open().await?;
    }
    if let Some(size) = changes.size.filter(|size| *size != image.virtual_size()) {
        image.resize(size, below).await?;
        image.close().await?;
    }
    if version < before {
        image.downgrade(progress).await?;
    }
    Ok(())
}

impl Amending<'_> {
    async fn open(&self) -> Result<Qcow2> {
        match self.data {
            Some(data) => {
                Qcow2::open_with_data(self.file.clone(), data.clone(), self.options).await
            }
            None => Qcow2::open(self.file.clone(), self.options).await,
        }
    }
}

impl Qcow2 {
    fn refcount_bits(&self) -> u32 {
        1 << self.geometry.refcount_order
    }

    /// Whether all that is asked for can be had.
    async fn check_amend(&self, changes: &Amend) -> Result<()> {
        let version = changes.version.unwrap_or(self.version());
        let bits = changes.refcount_bits.unwrap_or(self.refcount_bits());
        let why = self.first_obstacle(changes, version, bits);
        if let Some(why) = why {
            return Err(self.file.refused(why));
        }
        if bits < self.refcount_bits() {
            self.check_refcounts_fit(bits.trailing_zeros()).await?;
        }
        if version < self.version() {
            self.check_downgrade().await?;
            // With another size they may fit then.
            if changes.size.is_none() {
                self.check_snapshot_sizes().await?;
            }
        }
        Ok(())
    }

    fn first_obstacle(&self, changes: &Amend, version: u32, bits: u32) -> Option<&'static str> {
        let data = self.data_file();
        let is_raw = self.file.has_raw_data();
        let external = self.geometry.external_data;
        let width_is_wrong = !bits.is_power_of_two() || bits > 64;
        Some(match () {
            () if width_is_wrong => {
                "Refcount width must be a power of two and may not exceed 64 bits"
            }
            () if changes.data_file.is_some() && !external => {
                "data-file can only be set for images that use an external data file"
            }
            () if changes.data_file_raw == Some(true) && !is_raw => {
                "data-file-raw cannot be set on existing images"
            }
            // Without a name the header could not say so.
            () if data.is_none() && changes.data_file_raw == Some(false) && is_raw => {
                "the external data file has no name in the header: give it one (data_file=NAME)"
            }
            () if !(2..=3).contains(&version) => "the version must be 2 or 3",
            () if version < 3 && changes.refcount_bits.is_some() && bits != VERSION_2_BITS => {
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)"
            }
            () if version < 3 && bits != VERSION_2_BITS => "compat=0.10 requires refcount_bits=16",
            () if self.names_other_backing(changes) => {
                "Cannot amend the backing file\nYou can use 'strata-img rebase' instead."
            }
            () if version < 3 && changes.lazy_refcounts == Some(true) => {
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
            }
            () => return None,
        })
    }

    fn names_other_backing(&self, changes: &Amend) -> bool {
        if changes.backing.is_none() && changes.backing_format.is_none() {
            return false;
        }
        let found = self.backing();
        let name = found.as_ref().map(|backing| backing.name.clone());
        let format = found.and_then(|backing| backing.format);
        changes.backing != name || changes.backing_format != format
    }

    /// Names the external data file otherwise, and says whether it is raw.
    async fn amend_data_file(&self, changes: &Amend) -> Result<()> {
        let gives_up_raw = changes.data_file_raw == Some(false) && self.file.has_raw_data();
        if changes.data_file.is_none() && !gives_up_raw {
            return Ok(());
        }
        self.file.begin_write().await?;
        let change = |area: &mut HeaderArea| {
            if gives_up_raw {
                area.header.autoclear &= !AUTOCLEAR_RAW_DATA;
            }
            match &changes.data_file {
                Some(name) => DataFile::rename(name, area),
                None => Ok(()),
            }
        };
        self.order
            .change_area(change, ImageFile::stop_after)
            .await?;
        self.close().await
    }

    /// Allows refcounts to be written late, or no more. The image has to be opened anew then.
    async fn set_lazy(&self, lazy: bool) -> Result<()> {
        self.file.begin_write().await?;
        // Before they may not be late any more, none is.
        self.close().await?;
        let change = |area: &mut HeaderArea| {
            area.header.compatible &= !LAZY_REFCOUNTS;
            area.header.compatible |= if lazy { LAZY_REFCOUNTS } else { 0 };
            Ok(())
        };
        self.order.change_area(change, ImageFile::stop_after).await
    }
}
