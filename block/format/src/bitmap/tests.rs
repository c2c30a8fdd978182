use strata_exec::random;

use super::*;

/// A name that nothing else has.
fn name(name: &str) -> Name {
    Namespace::default().reserve(name).unwrap()
}

/// A plain model: one `bool` for each unit.
struct Model {
    granularity: u64,
    size: u64,
    dirty: Vec<bool>,
}

impl Model {
    fn new(granularity: u64, size: u64) -> Self {
        let dirty = vec![false; size.div_ceil(granularity) as usize];
        Self {
            granularity,
            size,
            dirty,
        }
    }

    fn set(&mut self, range: Range<u64>) {
        for (n, dirty) in self.dirty.iter_mut().enumerate() {
            let start = n as u64 * self.granularity;
            let end = (start + self.granularity).min(self.size);
            *dirty |= range.start < end && start < range.end;
        }
    }

    fn resize(&mut self, size: u64) {
        self.size = size;
        let units = size.div_ceil(self.granularity) as usize;
        self.dirty.resize(units, false);
    }

    fn assert_like(&self, bitmap: &DirtyBitmap) {
        let runs = bitmap.runs(0, self.size, usize::MAX);
        assert_eq!(runs.iter().map(|run| run.0).sum::<u64>(), self.size);
        assert!(runs.windows(2).all(|pair| pair[0].1 != pair[1].1));
        let mut at = 0;
        for (len, dirty) in runs {
            for unit in at / self.granularity..(at + len).div_ceil(self.granularity) {
                assert_eq!(self.dirty[unit as usize], dirty, "unit {unit}");
            }
            at += len;
        }
        let count = self.dirty.iter().filter(|dirty| **dirty).count() as u64;
        assert_eq!(bitmap.count(), count * self.granularity);
    }
}

/// What a file would hold of a bitmap, in pieces of `bytes` bytes, loaded again.
fn stored(bitmap: &DirtyBitmap, bytes: usize) -> Bits {
    let bits = bitmap.bits().borrow();
    let mut copy = Bits::new(bits.total());
    for at in (0..bits.total()).step_by(bytes * 8) {
        match bits.content(at, bytes) {
            Content::Zeros => {}
            Content::Ones => copy.set(at..at + bytes as u64 * 8),
            Content::Bytes(content) => copy.load(at, &content),
        }
    }
    copy
}

#[test]
fn random_changes_are_those_of_a_plain_model() {
    let mut seed = 7;
    let mut below = |n: u64| random::next(&mut seed) % n;
    for round in 0..60 {
        let bits = 9 + below(4) as u32;
        let size = (below(200_000) + 1) << below(8);
        let bitmap = DirtyBitmap::new(name("b"), bits, size, false);
        let mut model = Model::new(1 << bits, size);
        for _ in 0..12 {
            let start = below(model.size);
            let len = below(model.size) >> below(10);
            bitmap.set(start..start + len);
            model.set(start..start + len);
            if below(6) == 0 {
                let size = below(2 * model.size) + 1;
                bitmap.resize(size);
                model.resize(size);
            }
            model.assert_like(&bitmap);
        }
        let copy = stored(&bitmap, 512 << (round % 5));
        let again = DirtyBitmap::new(name("b"), bits, model.size, false);
        *again.bits().borrow_mut() = copy;
        model.assert_like(&again);
    }
}

#[test]
fn merging_widens_to_the_coarser_granularity() {
    let (fine, coarse) = (
        DirtyBitmap::new(name("fine"), 9, 1 << 20, false),
        DirtyBitmap::new(name("coarse"), 16, 1 << 20, false),
    );
    fine.set(70_000..70_001);
    coarse.merge(&fine);
    assert_eq!(
        coarse.runs(0, 1 << 20, 9),
        [(65536, false), (65536, true), (0xe0000, false)]
    );
    fine.clear();
    fine.merge(&coarse);
    assert_eq!(fine.count(), 65536);
    coarse.merge(&coarse);
    assert_eq!(coarse.count(), 65536);
}

#[test]
fn a_change_is_recorded_when_it_has_been_made() {
    let bitmaps = Bitmaps::default();
    for name in ["on", "off"] {
        let name = bitmaps.reserve(name).unwrap();
        bitmaps.add(DirtyBitmap::new(name, 9, 4096, false));
    }
    let (on, off) = (bitmaps.find("on").unwrap(), bitmaps.find("off").unwrap());
    off.set_recording(false);
    let change = bitmaps.record(1000, 100);
    on.clear();
    assert_eq!(on.count(), 0);
    drop(change);
    assert_eq!((on.count(), off.count()), (1024, 0));
    drop(bitmaps.record(4095, u64::MAX));
    assert_eq!(on.count(), 1536);
}

#[test]
fn a_bitmap_is_busy_while_it_is_held() {
    let bitmap = Rc::new(DirtyBitmap::new(name("b"), 9, 4096, false));
    let held = bitmap.hold();
    assert!(bitmap.is_busy());
    assert_eq!(held.bitmap().name(), "b");
    drop(held);
    assert!(!bitmap.is_busy());
}

#[test]
fn memory_follows_what_is_dirty() {
    // 8 EiB at 512 bytes: 2 PiB of bits, were they all kept.
    let bitmap = DirtyBitmap::new(name("b"), 9, u64::MAX / 2, false);
    bitmap.set(1 << 60..(1 << 60) + 1);
    assert_eq!(bitmap.count(), 512);
    assert_eq!(bitmap.run_at(0), (1 << 60, false));
    assert_eq!(bitmap.run_at(1 << 60), (512, true));
    assert!(!bitmap.run_at((1 << 60) + 512).1);
}

/// QEMU sets all bits of such a part, also those behind the end.
#[test]
fn a_part_that_the_bitmap_does_not_fill_is_never_all_ones() {
    let mut bits = Bits::new(512 * 8 + 3);
    bits.set(0..bits.total());
    assert_eq!(bits.content(0, 512), Content::Ones);
    let mut last = vec![0; 512];
    last[0] = 7;
    assert_eq!(bits.content(512 * 8, 512), Content::Bytes(last));
}
