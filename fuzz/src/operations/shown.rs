//! What some sectors of a disk are known to hold.

use std::{collections::BTreeMap, ops::Range};

use strata_format::below::Nothing;

use super::super::{image::Image, support::pattern};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// By number of the sector: the fill of a [`pattern`], or `None` for zeros.
#[derive(Debug, Clone, Default)]
pub struct Shown(BTreeMap<u64, Option<u8>>);

impl Shown {
    /// All of the range, which is one of whole sectors, holds this.
    pub fn set(&mut self, range: &Range<u64>, fill: Option<u8>) {
        for sector in sectors(range) {
            self.0.insert(sector, fill);
        }
    }

    /// All of the range holds zeros: noted for its ends, and for what was known before.
    pub fn zero(&mut self, range: &Range<u64>) {
        let sectors = sectors(range);
        if sectors.is_empty() {
            return;
        }
        self.0.insert(sectors.start, None);
        self.0.insert(sectors.end - 1, None);
        self.0.range_mut(sectors).for_each(|(_, fill)| *fill = None);
    }

    /// Nothing is known of the range any more.
    pub fn forget(&mut self, range: &Range<u64>) {
        let sectors = sectors(range);
        self.0.retain(|sector, _| !sectors.contains(sector));
    }

    /// The image shows what it should.
    ///
    /// # Panics
    /// It does not.
    pub async fn compare(&self, image: &Image) {
        for (&sector, &fill) in &self.0 {
            let at = sector * SECTOR;
            let expected = match fill {
                Some(fill) => pattern(at, SECTOR as usize, fill),
                None => vec![0; SECTOR as usize],
            };
            let found = image.read(at, SECTOR as usize, &Nothing).await;
            let found = found.unwrap_or_else(|error| panic!("sector {sector}: {error}"));
            assert!(found == expected, "sector {sector} is not {fill:?}");
        }
    }
}

/// Whole sectors of a range of bytes.
fn sectors(range: &Range<u64>) -> Range<u64> {
    range.start / SECTOR..range.end.div_ceil(SECTOR)
}
