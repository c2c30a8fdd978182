//! The operations of a run: a pure function of the seed, so that a program that knows the seed and
//! how far a run came knows what must be on its disks.
//!
//! A disk is cut into extents of [`EXTENT_UNITS`] units that belong to its lanes in turn. A lane
//! does one operation after the other, and only inside its own extents, so it knows at any time
//! what each of its units holds. An extent's length is odd on purpose: its ends fall inside the
//! clusters of any image format, where two lanes then meet.

#[cfg(test)]
mod tests;

/// Bytes in a unit, the smallest piece that is written, read and checked.
pub const UNIT_BYTES: usize = 4096;
/// Units in the longest operation: 256 KiB.
pub const MAX_UNITS: u32 = 64;
/// Units in an extent.
pub const EXTENT_UNITS: u32 = 65;
/// Lanes on each disk, which is also how many requests it has in flight at most.
pub const LANES_PER_DISK: u32 = 3;

/// A run of units on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first unit.
    pub first: u32,
    /// How many; 1 to [`MAX_UNITS`].
    pub count: u32,
}

impl Span {
    /// The units in it.
    pub fn units(self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }

    /// Where it starts, in bytes.
    pub fn offset(self) -> u64 {
        u64::from(self.first) * UNIT_BYTES as u64
    }
}

/// One operation of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write new content.
    Write(Span),
    /// Read and check.
    Read(Span),
    /// Make all earlier writes of the lane durable.
    Flush,
}

/// Which lane of which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Index of the disk in `strata.disks`.
    pub disk: u32,
    /// Index of the lane on its disk.
    pub number: u32,
    /// Units on the disk.
    pub disk_units: u32,
}

/// The lane that `unit` of a disk belongs to, as an index on that disk.
pub fn lane_of(unit: u32) -> u32 {
    unit / EXTENT_UNITS % LANES_PER_DISK
}

/// A well mixed function of `x` (the finaliser of splitmix64).
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The low bits of `random`, scaled to `0..bound`; `random` keeps the rest.
fn take(random: &mut u64, bound: u32) -> u32 {
    let value = ((*random & 0xffff) * u64::from(bound)) >> 16;
    *random >>= 16;
    u32::try_from(value).expect("below the bound")
}

impl Lane {
    /// Whole extents of the disk that are this lane's. A disk's incomplete last extent is unused.
    fn extents(self) -> u32 {
        let on_disk = self.disk_units / EXTENT_UNITS;
        (on_disk + LANES_PER_DISK - 1 - self.number) / LANES_PER_DISK
    }

    /// Whether the disk is large enough for every lane to have an extent.
    pub fn is_usable(self) -> bool {
        self.extents() > 0
    }

    /// Operation `index` of the run with this seed.
    pub fn op(self, seed: u64, index: u32) -> Op {
        let lane = u64::from(self.disk * LANES_PER_DISK + self.number);
        let place = (lane << 32) | u64::from(index);
        let base = mix(seed).wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut what = mix(base);
        let kind = take(&mut what, 16);
        if kind == 0 {
            return Op::Flush;
        }
        let span = self.span(&mut what, mix(base ^ 0x5851_f42d_4c95_7f2d));
        if kind < 6 {
            Op::Read(span)
        } else {
            Op::Write(span)
        }
    }

    fn span(self, what: &mut u64, mut place: u64) -> Span {
        // Short and long are both frequent: the upper bound of the length doubles step by step.
        let bound = 1 << take(what, 7);
        let count = 1 + take(what, bound);
        // Half of all operations fall on an eighth of the extents, so that data is overwritten
        // often.
        let extents = self.extents();
        let is_hot = take(&mut place, 2) == 0;
        let choice = if is_hot { extents.div_ceil(8) } else { extents };
        let extent = take(&mut place, choice) * LANES_PER_DISK + self.number;
        let first = extent * EXTENT_UNITS + take(&mut place, EXTENT_UNITS - count + 1);
        Span { first, count }
    }
}
