//! Storing the bitmaps when an image is closed.

use super::{
    Directory, Stored,
    directory::{self, Entry},
    table::{self, Part},
};
use crate::{
    bitmap::{Content, DirtyBitmap},
    error::{Error, IoResult, Result},
    qcow2::{
        Qcow2,
        layout::{extensions::DirectoryPlace, geometry::HostRun},
        space::metadata_map::Kind,
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
        if self.read_only.get() || !self.bitmaps.unstored.get() {
            return Ok(());
        }
        let mut bitmaps = self.bitmaps.live.list();
        bitmaps.retain(|bitmap| bitmap.is_persistent());
        if bitmaps.is_empty() && self.bitmaps.directory.borrow().is_none() {
            return Ok(());
        }
        // Refcounts are about to change. Where they are written lazily, an earlier try may have left
        // the image closed but for its bitmaps.
        self.begin_write().await?;
        let mut made = Made::default();
        let result = match self.write_bitmaps(&bitmaps, &mut made).await {
            Ok(directory) => self.switch_directory(directory).await,
            Err(error) => Err(error.into()),
        };
        if result.is_err() && !self.is_stopped() {
            for run in made.0 {
                self.metadata.remove(run);
                self.give_back(run).await;
            }
        }
        result.map_err(|error| self.not_stored(&error))
    }

    fn not_stored(&self, error: &Error) -> Error {
        Error::Image {
            file: self.file.path().to_owned(),
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
    ) -> IoResult<Option<Directory>> {
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
        let bytes = directory::to_bytes(stored.iter().map(|stored| &stored.entry));
        let place = DirectoryPlace {
            count: stored.len() as u32,
            len: bytes.len() as u64,
            offset: self
                .write_new_clusters(bytes, Kind::BitmapDirectory, made)
                .await?,
        };
        Ok(Some(Directory { place, stored }))
    }

    fn kept(&self, name: &str) -> Option<Stored> {
        let directory = self.bitmaps.directory.borrow();
        let stored = &directory.as_ref()?.stored;
        stored.iter().find(|s| s.entry.name == name).cloned()
    }

    async fn write_bitmap(&self, bitmap: &DirtyBitmap, made: &mut Made) -> IoResult<Stored> {
        let cluster = self.geometry.cluster_len();
        let first = made.0.len();
        let bits = bitmap.bits().borrow().total();
        let mut parts = Vec::new();
        for n in 0..table::len(bits, &self.geometry) {
            let at = n * cluster as u64 * 8;
            let content = bitmap.bits().borrow().content(at, cluster);
            parts.push(match content {
                Content::Zeros => Part::Zeros,
                Content::Ones => Part::Ones,
                Content::Bytes(bytes) => Part::Data(
                    self.write_new_clusters(bytes, Kind::BitmapData, made)
                        .await?,
                ),
            });
        }
        let bytes = table::to_bytes(&parts);
        let offset = self
            .write_new_clusters(bytes, Kind::BitmapTable, made)
            .await?;
        Ok(Stored {
            // At most `MAX_BITMAP_BYTES` in clusters of 512 bytes.
            entry: Entry::new(offset, parts.len() as u32, bitmap),
            clusters: made.0[first..].to_vec(),
        })
    }

    /// Writes `bytes` to new, adjacent clusters, and says where. What is behind them in the last cluster
    /// is nobody's.
    async fn write_new_clusters(
        &self,
        bytes: Vec<u8>,
        kind: Kind,
        made: &mut Made,
    ) -> IoResult<u64> {
        let g = &self.geometry;
        let run = self
            .allocate_adjacent(g.clusters_for(bytes.len() as u64))
            .await?;
        made.0.push(run);
        self.note_metadata(run, kind)?;
        let offset = g.host_offset(run.first);
        self.file.write_vec(offset, bytes).await?;
        Ok(offset)
    }

    /// Makes the header name another directory, once that is durable with all it names, and frees
    /// what the old one named.
    async fn switch_directory(&self, new: Option<Directory>) -> Result<()> {
        let place = new.as_ref().map(|new| new.place);
        // After any error: the file may name the new clusters, which are about to be freed.
        self.change_area(|area| area.set_bitmaps(place), Self::stop)
            .await?;
        self.write_ready.set(false);
        self.bitmaps.unstored.set(false);
        let old = self.bitmaps.directory.replace(new);
        for run in old.iter().flat_map(|old| self.clusters_of(old)) {
            self.metadata.remove(run);
            self.freed.push(run);
        }
        Ok(())
    }

    /// The clusters of a directory, but for those that the present one names, too.
    fn clusters_of(&self, old: &Directory) -> Vec<HostRun> {
        let g = &self.geometry;
        let present = self.bitmaps.directory.borrow();
        let kept = |stored: &&Stored| {
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
