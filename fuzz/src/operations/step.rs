//! One operation.

use std::{ops::Range, time::SystemTime};

use strata_exec::mem::SgList;
use strata_format::{below::Nothing, bitmap::DirtyBitmap, check::Repair, qcow2::Qcow2};
use strata_storage::error::{Error, Result};

use super::{
    super::{image::Image, support::pattern},
    Subject,
    shown::{SECTOR, Shown},
};

/// Bytes of an operation in the input.
pub const BYTES: usize = 4;

/// Bits of a bitmap at most.
const MAX_BITS: u64 = 1 << 16;

/// A place on the disk: in how many 256ths of it, and how many sectors.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    at: u8,
    len: u8,
}

/// What is done. Snapshots and bitmaps are meant by their number.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Write(Place, u8),
    Compressed(u8, u8),
    Zero(Place, bool),
    Discard(Place),
    Snapshot(u8),
    Apply(u8),
    Delete(u8),
    Resize(u8, u8),
    AddBitmap(u8, u8),
    RemoveBitmap(u8),
    Empty,
    Flush,
    Repair(Repair),
    Reopen,
}

impl Step {
    pub fn parse(bytes: &[u8; BYTES]) -> Self {
        let [kind, a, b, c] = *bytes;
        let place = Place { at: a, len: b };
        match kind % 14 {
            0 => Self::Write(place, c),
            1 => Self::Compressed(a, c),
            2 => Self::Zero(place, c.is_multiple_of(2)),
            3 => Self::Discard(place),
            4 => Self::Snapshot(a),
            5 => Self::Apply(a),
            6 => Self::Delete(a),
            7 => Self::Resize(a, b),
            8 => Self::AddBitmap(a, b),
            9 => Self::RemoveBitmap(a),
            10 => Self::Empty,
            11 => Self::Flush,
            12 if a.is_multiple_of(2) => Self::Repair(Repair::Leaks),
            12 => Self::Repair(Repair::All),
            _ => Self::Reopen,
        }
    }

    /// Operations after which an image holds nothing: as often as they are done.
    pub fn round() -> Vec<Self> {
        let place = |at| Place { at, len: 9 };
        vec![
            Self::Write(place(0), 1),
            Self::AddBitmap(0, 0),
            Self::Snapshot(0),
            Self::Write(place(0), 2),
            Self::Compressed(60, 3),
            Self::Snapshot(1),
            Self::Write(place(130), 4),
            Self::Apply(0),
            Self::Discard(place(0)),
            Self::Delete(0),
            Self::Delete(0),
            Self::Delete(0),
            Self::RemoveBitmap(0),
            Self::RemoveBitmap(0),
            Self::Empty,
        ]
    }
}

impl Place {
    /// Its bytes: whole sectors of the disk.
    fn range(self, image: &Image) -> Range<u64> {
        let sectors = image.size() / SECTOR;
        let start = (u128::from(sectors) * u128::from(self.at) / 256) as u64;
        let end = (start + 1 + u64::from(self.len)).min(sectors);
        start.min(end) * SECTOR..end * SECTOR
    }
}

impl Subject {
    /// Does what can be done with an open image, and notes what the disk shows then.
    pub async fn carry_out(&mut self, step: &Step) {
        let done = match *step {
            Step::Write(place, fill) => self.write(place.range(&self.image), fill).await,
            Step::Compressed(at, fill) => self.compressed(at, fill).await,
            Step::Zero(place, unmap) => self.zero(place.range(&self.image), unmap).await,
            Step::Discard(place) => self.discard(place.range(&self.image)).await,
            Step::Resize(how, by) => self.resize(how, by).await,
            Step::Empty => self.empty().await,
            Step::Flush => self.image.flush().await.map_err(Error::from),
            Step::Snapshot(_) | Step::Apply(_) | Step::Delete(_) => self.snapshot(step).await,
            Step::AddBitmap(..) | Step::RemoveBitmap(_) => self.bitmap(step).await,
            Step::Repair(_) | Step::Reopen => unreachable!("the image is closed for that"),
        };
        if done.is_err() {
            self.failed();
        }
    }

    async fn write(&mut self, range: Range<u64>, fill: u8) -> Result<()> {
        self.shown.forget(&range);
        let bytes = pattern(range.start, (range.end - range.start) as usize, fill);
        self.image.write(range.start, bytes, &Nothing).await?;
        self.shown.set(&range, Some(fill));
        Ok(())
    }

    /// Writes a whole cluster compressed, where the format knows of that.
    async fn compressed(&mut self, at: u8, fill: u8) -> Result<()> {
        let (Image::Qcow2(image), cluster) = (&self.image, self.image.cluster_size()) else {
            return Ok(());
        };
        let clusters = u128::from(image.virtual_size() / cluster);
        if clusters == 0 || image.data_file().is_some() {
            return Ok(());
        }
        let start = (clusters * u128::from(at) / 256) as u64 * cluster;
        let range = start..start + cluster;
        self.shown.forget(&range);
        let bytes = pattern(start, cluster as usize, fill);
        if let Some(packed) = image.pack(&SgList::from_vec(bytes)).await {
            image.write_packed(start, packed).await?;
            self.shown.set(&range, Some(fill));
        }
        Ok(())
    }

    async fn zero(&mut self, range: Range<u64>, unmap: bool) -> Result<()> {
        self.shown.forget(&range);
        let len = range.end - range.start;
        let (image, start) = (&self.image, range.start);
        image.write_zeroes(start, len, unmap, &Nothing).await?;
        self.shown.zero(&range);
        Ok(())
    }

    async fn discard(&mut self, range: Range<u64>) -> Result<()> {
        self.shown.forget(&range);
        let len = range.end - range.start;
        Ok(self.image.discard(range.start, len, &Nothing).await?)
    }

    /// Makes the disk longer or shorter, by much or by little.
    async fn resize(&mut self, how: u8, by: u8) -> Result<()> {
        let (old, by) = (self.image.size(), u64::from(by));
        let size = match how % 4 {
            0 => old.saturating_add(by * SECTOR),
            1 => old.saturating_sub(by * SECTOR),
            2 => old / 2,
            _ => old.saturating_add(by * self.image.cluster_size() * 8),
        };
        let size = size / SECTOR * SECTOR;
        self.shown.forget(&(size.min(old)..u64::MAX));
        self.image.resize(size, &Nothing).await?;
        if size > old {
            // What a shorter disk has not shown may come to light in its last sector.
            let old = old.next_multiple_of(SECTOR);
            self.shown.zero(&(old..size));
        }
        Ok(())
    }

    async fn empty(&mut self) -> Result<()> {
        let shown = std::mem::take(&mut self.shown);
        self.image.make_empty().await?;
        self.shown = shown;
        self.shown.zero(&(0..self.image.size() / SECTOR * SECTOR));
        Ok(())
    }

    async fn snapshot(&mut self, step: &Step) -> Result<()> {
        let Image::Qcow2(image) = &self.image else {
            return Ok(());
        };
        if let Step::Snapshot(name) = step {
            let name = ["a", "b", "c"][usize::from(*name) % 3];
            image.create_snapshot(name, SystemTime::UNIX_EPOCH).await?;
            if let Some(made) = image.snapshots().await?.pop() {
                self.kept.insert(made.id, self.shown.clone());
            }
            return Ok(());
        }
        let (Step::Apply(number) | Step::Delete(number)) = *step else {
            unreachable!("the third of three");
        };
        let snapshots = image.snapshots().await?;
        if snapshots.is_empty() {
            return Ok(());
        }
        let id = &snapshots[usize::from(number) % snapshots.len()].id;
        if let Step::Delete(_) = step {
            self.kept.remove(id);
            return image.delete_snapshot(id).await;
        }
        self.shown = Shown::default();
        image.apply_snapshot(id).await?;
        self.shown = self.kept.get(id).cloned().unwrap_or_default();
        Ok(())
    }

    async fn bitmap(&mut self, step: &Step) -> Result<()> {
        let Image::Qcow2(image) = &self.image else {
            return Ok(());
        };
        match *step {
            Step::AddBitmap(name, granularity) => add_bitmap(image, name, granularity).await,
            Step::RemoveBitmap(number) => {
                let bitmaps = image.bitmaps().list();
                if bitmaps.is_empty() {
                    return Ok(());
                }
                image.begin_bitmap_change().await?;
                let number = usize::from(number) % bitmaps.len();
                image.bitmaps().remove(bitmaps[number].name());
                Ok(())
            }
            _ => unreachable!("one of the two"),
        }
    }
}

/// Adds a persistent bitmap, if its name is free and the image can hold it.
async fn add_bitmap(image: &Qcow2, name: u8, granularity: u8) -> Result<()> {
    let name = format!("bitmap-{}", name % 4);
    let fewest = (image.virtual_size() / MAX_BITS).max(1).ilog2() + 1;
    let bits = (9 + u32::from(granularity) % 8).max(fewest);
    if bits > 31 {
        return Ok(());
    }
    let Some(name) = image.bitmaps().reserve(&name) else {
        return Ok(());
    };
    let bitmap = DirtyBitmap::new(name, bits, image.virtual_size(), true);
    if image.check_new_bitmap(&bitmap).is_err() {
        return Ok(());
    }
    image.begin_bitmap_change().await?;
    image.bitmaps().add(bitmap);
    Ok(())
}
