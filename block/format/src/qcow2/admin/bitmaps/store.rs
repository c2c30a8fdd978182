//! Storing the bitmaps when an image is closed.

use strata_storage::error::{Error, IoResult, Result};

use crate::{
    bitmap::{Content, DirtyBitmap},
    qcow2::{
        Qcow2,
        file::{BitmapDirectory, ImageFile, StoredBitmap},
        layout::{
            bitmap_directory::{self, Entry},
            bitmap_table::{self, Part},
            extensions::DirectoryPlace,
            geometry::HostRun,
        },
        space::MetadataKind,
    },
};

/// Clusters that nothing names yet.
#[derive(Default)]
struct Made(Vec<HostRun>);

impl Qcow2 {
    /// Stores the persistent bitmaps if the image has been written to, and makes the file say that
    /// they are valid. Nothing is written meanwhile: the caller has seen to that.
    ///
    /// # Errors
    /// There is no room for them, or the host's error: then the file goes on saying that they are
    /// in use, and they are stored when this is called again.
    pub(in crate::qcow2) async fn store_bitmaps(&self) -> Result<()> {
        if self.file.is_read_only() || !self.file.bitmaps().is_unstored() {
            return Ok(());
        }
        let mut bitmaps = self.bitmaps().list();
        bitmaps.retain(|bitmap| bitmap.is_persistent());
        if bitmaps.is_empty() && self.file.bitmaps().directory().is_none() {
            return Ok(());
        }
        // Refcounts are about to change. Where they are written lazily, an earlier try may have
        // left the image closed but for its bitmaps.
        self.file.begin_write().await?;
        let mut made = Made::default();
        let result = match self.write_bitmaps(&bitmaps, &mut made).await {
            Ok(directory) => self.switch_directory(directory).await,
            Err(error) => Err(error.into()),
        };
        if result.is_err() && !self.file.is_stopped() {
            for run in made.0 {
                self.space.forget_metadata(run);
                self.space.deallocate(run).await;
            }
        }
        result.map_err(|error| self.not_stored(&error))
    }

    fn not_stored(&self, error: &Error) -> Error {
        Error::Image {
            file: self.file.storage().path().to_owned(),
            why: format!(
                "the dirty bitmaps could not be stored, and cannot be used unless they are later \
                 ({error})"
            ),
        }
    }

    /// Writes the bitmaps and a directory of them to new clusters. Those that cannot be used stay
    /// as they are.
    async fn write_bitmaps(
        &self,
        bitmaps: &[std::rc::Rc<DirtyBitmap>],
        made: &mut Made,
    ) -> IoResult<Option<BitmapDirectory>> {
        let mut stored = Vec::new();
        for bitmap in bitmaps {
            if bitmap.is_inconsistent() {
                stored.extend(self.kept(bitmap.name()));
            } else {
                stored.push(self.write_bitmap(bitmap, made).await?);
            }
        }
        if stored.is_empty() {
            return Ok(None);
        }
        let bytes = bitmap_directory::to_bytes(stored.iter().map(|stored| &stored.entry));
        let place = DirectoryPlace {
            count: u32::try_from(stored.len()).expect("their names fit into memory"),
            len: bytes.len() as u64,
            offset: self
                .write_new_clusters(bytes, MetadataKind::BitmapDirectory, made)
                .await?,
        };
        Ok(Some(BitmapDirectory { place, stored }))
    }

    fn kept(&self, name: &str) -> Option<StoredBitmap> {
        let directory = self.file.bitmaps().directory();
        let stored = &directory.as_ref()?.stored;
        stored.iter().find(|s| s.entry.name == name).cloned()
    }

    async fn write_bitmap(&self, bitmap: &DirtyBitmap, made: &mut Made) -> IoResult<StoredBitmap> {
        let cluster = self.geometry.cluster_len();
        let first = made.0.len();
        let bits = bitmap.bits().borrow().total();
        let mut parts = Vec::new();
        for n in 0..bitmap_table::len(bits, &self.geometry) {
            let at = n * cluster as u64 * 8;
            let content = bitmap.bits().borrow().content(at, cluster);
            parts.push(match content {
                Content::Zeros => Part::Zeros,
                Content::Ones => Part::Ones,
                Content::Bytes(bytes) => Part::Data(
                    self.write_new_clusters(bytes, MetadataKind::BitmapData, made)
                        .await?,
                ),
            });
        }
        let bytes = bitmap_table::to_bytes(&parts);
        let offset = self
            .write_new_clusters(bytes, MetadataKind::BitmapTable, made)
            .await?;
        Ok(StoredBitmap {
            entry: Entry::new(
                offset,
                u32::try_from(parts.len()).expect("MAX_BITMAP_BYTES in clusters of 512 bytes"),
                bitmap,
            ),
            clusters: made.0[first..].to_vec(),
        })
    }

    /// Writes `bytes` to new, adjacent clusters, and says where. What is behind them in the last
    /// cluster has no meaning.
    async fn write_new_clusters(
        &self,
        bytes: Vec<u8>,
        kind: MetadataKind,
        made: &mut Made,
    ) -> IoResult<u64> {
        let g = &self.geometry;
        let run = self
            .space
            .allocate_adjacent(g.clusters_for(bytes.len() as u64))
            .await?;
        made.0.push(run);
        self.space.note_metadata(run, kind)?;
        let offset = g.host_offset(run.first);
        self.file.storage().write_vec(offset, bytes).await?;
        Ok(offset)
    }

    /// Makes the header name another directory, once that is durable with all it names, and frees
    /// what the old one named.
    async fn switch_directory(&self, new: Option<BitmapDirectory>) -> Result<()> {
        let place = new.as_ref().map(|new| new.place);
        // After any error: the file may name the new clusters, which are about to be freed.
        self.order
            .change_area(|area| area.set_bitmaps(place), ImageFile::stop)
            .await?;
        self.file.end_writes();
        self.file.bitmaps().set_unstored(false);
        let old = self.file.bitmaps().replace_directory(new);
        for run in old.iter().flat_map(|old| self.clusters_of(old)) {
            self.space.forget_metadata(run);
            self.space.free_later(run);
        }
        Ok(())
    }

    /// The clusters of a directory, but for those that the present one names, too.
    fn clusters_of(&self, old: &BitmapDirectory) -> Vec<HostRun> {
        let g = &self.geometry;
        let present = self.file.bitmaps().directory();
        let kept = |stored: &&StoredBitmap| {
            let mut present = present.iter().flat_map(|d| &d.stored);
            present.any(|p| p.entry.table == stored.entry.table)
        };
        let given_up = old.stored.iter().filter(|stored| !kept(stored));
        let directory = HostRun {
            first: g.host_cluster(old.place.offset),
            count: g.clusters_for(old.place.len),
        };
        given_up
            .flat_map(|stored| stored.clusters.iter().copied())
            .chain([directory])
            .collect()
    }
}
