//! Reading the directory and the bitmaps when an image is opened.
//!
//! An image whose bitmaps contradict themselves can be used all the same: its bitmaps cannot. They
//! are lost with the first write, which clears the autoclear bit that calls them valid.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use crate::{
    bitmap::{Bits, DirtyBitmap},
    qcow2::{
        Qcow2,
        file::{BitmapDirectory, StoredBitmap},
        layout::{
            bitmap_directory::{self, Entry, MAX_BITMAPS, MAX_DIRECTORY},
            bitmap_table::{self, Part},
            extensions::DirectoryPlace,
            geometry::HostRun,
            header::AUTOCLEAR_BITMAPS,
        },
        space::MetadataKind,
    },
};

/// Bits of all bitmaps together at most: few bytes of a file can stand for many bits that are set.
/// In memory they take 200 MB at most, beside what the file holds of them bit by bit.
const MAX_BITS: u64 = 1 << 37;

/// What is wrong with the bitmaps, beside errors of the host.
type Judged<T> = std::result::Result<T, String>;

impl Qcow2 {
    /// Loads what the header says is valid.
    ///
    /// # Errors
    /// The host's error.
    pub(in crate::qcow2) async fn load_bitmaps(&self) -> IoResult<()> {
        let (valid, place) = {
            let area = self.file.area();
            let valid = area.header.autoclear & AUTOCLEAR_BITMAPS != 0;
            (valid, area.extensions.bitmap_directory())
        };
        let Some(place) = place else { return Ok(()) };
        let judged = if valid {
            self.read_bitmaps(place).await?
        } else {
            Err("the image was written by a program that does not know them".to_owned())
        };
        match judged {
            Ok(directory) => {
                self.file.bitmaps().replace_directory(Some(directory));
            }
            Err(why) => {
                if valid {
                    self.file.bitmaps().set_fault(why.clone());
                }
                let file = self.file.storage().path().display();
                tracing::warn!(
                    %file,
                    "the dirty bitmaps cannot be used, and are given up when the image is written \
                     to ({why}): 'strata-img check -r leaks' frees their space"
                );
            }
        }
        Ok(())
    }

    async fn read_bitmaps(
        &self,
        place: Judged<DirectoryPlace>,
    ) -> IoResult<Judged<BitmapDirectory>> {
        let mut loader = Loader {
            image: self,
            noted: Vec::new(),
            bitmaps: Vec::new(),
            bits: 0,
        };
        let judged = match place {
            Ok(place) => loader.directory(place).await?,
            Err(why) => Err(why),
        };
        if judged.is_ok() {
            loader
                .bitmaps
                .into_iter()
                .for_each(|b| self.bitmaps().add(b));
        } else {
            loader
                .noted
                .iter()
                .for_each(|run| self.space.forget_metadata(*run));
        }
        Ok(judged)
    }
}

/// Bitmaps being loaded.
struct Loader<'a> {
    image: &'a Qcow2,
    /// Clusters that were found to be theirs.
    noted: Vec<HostRun>,
    bitmaps: Vec<DirtyBitmap>,
    /// Bits of all of them.
    bits: u64,
}

impl Loader<'_> {
    async fn directory(&mut self, place: DirectoryPlace) -> IoResult<Judged<BitmapDirectory>> {
        let g = &self.image.geometry;
        let DirectoryPlace { offset, len, count } = place;
        if len > MAX_DIRECTORY || count > MAX_BITMAPS || count == 0 {
            let why = format!("a directory of {len} bytes for {count} bitmaps is not valid");
            return Ok(Err(why));
        }
        if let Err(why) = self.note(offset, len, MetadataKind::BitmapDirectory) {
            return Ok(Err(why));
        }
        // At most 64 MiB, and within the file.
        let bytes = self
            .image
            .file
            .storage()
            .read_vec(offset, to_usize(len))
            .await?;
        let entries = match bitmap_directory::parse(&bytes, count, g) {
            Ok(entries) => entries,
            Err(why) => return Ok(Err(why)),
        };
        let mut stored = Vec::new();
        for entry in entries {
            match self.entry(entry).await? {
                Ok(entry) => stored.push(entry),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(BitmapDirectory { place, stored }))
    }

    /// Reads a bitmap's table, and what it holds if it can be used.
    async fn entry(&mut self, entry: Entry) -> IoResult<Judged<StoredBitmap>> {
        let image = self.image;
        let first = self.noted.len();
        let bytes = u64::from(entry.table_len) * 8;
        if let Err(why) = self.note(entry.table, bytes, MetadataKind::BitmapTable) {
            return Ok(Err(why));
        }
        // At most 8 MiB, and within the file.
        let table = image
            .file
            .storage()
            .read_vec(entry.table, to_usize(bytes))
            .await?;
        let parts = match bitmap_table::parse(&table, &image.geometry) {
            Ok(parts) => parts,
            Err(why) => return Ok(Err(why)),
        };
        for part in &parts {
            if let Part::Data(offset) = *part
                && let Err(why) = self.note(offset, 1, MetadataKind::BitmapData)
            {
                return Ok(Err(why));
            }
        }
        let bits = u32::from(entry.granularity_bits);
        let Some(name) = image.bitmaps().reserve(&entry.name) else {
            return Ok(Err(format!("there are two bitmaps '{}'", entry.name)));
        };
        if entry.is_usable() {
            let bitmap = DirtyBitmap::new(name, bits, image.virtual_size(), true);
            let len = bitmap.bits().borrow().total();
            if bitmap_table::len(len, &image.geometry) != u64::from(entry.table_len) {
                let why = format!("bitmap '{}' has a table of a wrong size", entry.name);
                return Ok(Err(why));
            }
            self.bits += len;
            if self.bits > MAX_BITS {
                return Ok(Err(format!("the bitmaps have more than {MAX_BITS} bits")));
            }
            let loaded = self.read_bits(&parts, len).await?;
            *bitmap.bits().borrow_mut() = loaded;
            bitmap.set_recording(entry.flags.contains(bitmap_directory::Flags::AUTO));
            self.bitmaps.push(bitmap);
        } else {
            if let Some(why) = entry.fault() {
                let file = image.file.storage().path().display();
                tracing::warn!(%file, "{why}: it is not used; 'strata-img bitmap --remove' removes it");
            }
            self.bitmaps.push(DirtyBitmap::inconsistent(name, bits));
        }
        let clusters = self.noted[first..].to_vec();
        Ok(Ok(StoredBitmap { entry, clusters }))
    }

    async fn read_bits(&self, parts: &[Part], len: u64) -> IoResult<Bits> {
        let cluster = self.image.geometry.cluster_len();
        let mut bits = Bits::new(len);
        for (n, part) in parts.iter().enumerate() {
            let at = n as u64 * cluster as u64 * 8;
            match *part {
                Part::Zeros => {}
                Part::Ones => bits.set(at..at + cluster as u64 * 8),
                Part::Data(offset) => {
                    bits.load(
                        at,
                        &self.image.file.storage().read_vec(offset, cluster).await?,
                    );
                }
            }
        }
        Ok(bits)
    }

    /// Notes that `len` bytes at `offset` of the file are a part of the bitmaps.
    fn note(&mut self, offset: u64, len: u64, kind: MetadataKind) -> Judged<()> {
        let g = &self.image.geometry;
        let end = offset.checked_add(len);
        if g.in_cluster(offset) != 0 || end.is_none_or(|end| end > self.image.file.storage().len())
        {
            return Err(format!("{kind} at {offset:#x} lies where none can be"));
        }
        let run = HostRun {
            first: g.host_cluster(offset),
            count: g.clusters_for(len),
        };
        let overlap = |found| format!("{kind} at {offset:#x} overlaps {found}");
        self.image.space.note_found(run, kind).map_err(overlap)?;
        self.noted.push(run);
        Ok(())
    }
}
