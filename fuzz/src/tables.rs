//! Tables: a small image whose header is right and whose tables hold what the input says. So
//! nearly every input gets past the header.

mod qed;

use arbitrary::{Arbitrary, Unstructured};

use super::{images, support::block_on};

/// Clusters of the file.
const CLUSTERS: u64 = 16;
/// Where what lies, in clusters. Two L2 tables and three clusters for data come first.
const REFCOUNT_TABLE: u64 = 1;
const REFCOUNT_BLOCK: u64 = 2;
const L1: u64 = 3;
const L2: u64 = 4;
const DATA: u64 = 6;
const SNAPSHOTS: u64 = 9;
const SNAPSHOT_L1: u64 = 11;
const BITMAPS: u64 = 12;
const BITMAP_TABLE: u64 = 13;
/// Bytes of an entry of the bitmaps' directory.
const BITMAP_ENTRY: u64 = 32;
/// Clusters whose refcounts are right unless the input says otherwise.
const USED: u64 = 14;

#[derive(Debug, Arbitrary)]
struct Tables {
    /// log2 of the cluster size, above 9.
    cluster_bits: u8,
    version_2: bool,
    refcount_order: u8,
    /// Clusters of the disk, of which the first two L2 tables can hold as many.
    disk_clusters: u16,
    incompatible: u8,
    extended_l2: bool,
    autoclear: u8,
    snapshots: u8,
    bitmaps: u8,
    /// Data lies in a file of its own, which may be raw.
    data_file: Option<bool>,
    patches: Vec<Patch>,
}

/// A table entry that is not what it should be.
#[derive(Debug, Arbitrary)]
struct Patch {
    /// The cluster that it lies in.
    cluster: u8,
    /// Which 8 bytes of it.
    index: u16,
    entry: Entry,
}

#[derive(Debug, Arbitrary)]
enum Entry {
    Raw(u64),
    /// A cluster of the file, with the flags in the topmost and lowest bits.
    Cluster {
        number: u8,
        high: u8,
        low: u8,
    },
    /// A compressed cluster: where, in sectors, and how long.
    Compressed {
        sector: u8,
        sectors: u8,
    },
    Small(u8),
}

/// Builds the image and uses it as [`images::run`] does.
pub fn run(input: &[u8]) {
    if let Some(image) = build(input) {
        block_on(async move { images::exercise(&image).await });
    }
}

/// The image whose tables the input describes.
pub fn build(input: &[u8]) -> Option<Vec<u8>> {
    let mut input = Unstructured::new(input);
    let image = if input.ratio(1, 4).unwrap_or(false) {
        qed::Tables::arbitrary(&mut input).map(|tables| tables.build())
    } else {
        Tables::arbitrary(&mut input).map(|tables| tables.build())
    };
    image.ok()
}

impl Tables {
    fn cluster_bits(&self) -> u32 {
        if self.extended_l2() {
            14
        } else {
            9 + u32::from(self.cluster_bits) % 4
        }
    }

    fn extended_l2(&self) -> bool {
        self.extended_l2 && !self.version_2
    }

    fn l2_entries(&self) -> u64 {
        1 << (self.cluster_bits() - 3 - u32::from(self.extended_l2()))
    }

    fn refcount_order(&self) -> u32 {
        if self.version_2 {
            4
        } else {
            u32::from(self.refcount_order) % 7
        }
    }

    /// Whether the data lies in a file of its own; whether that is raw.
    fn data_file(&self) -> Option<bool> {
        self.data_file.filter(|_| !self.version_2)
    }

    fn build(&self) -> Vec<u8> {
        let bits = self.cluster_bits();
        let mut image = Bytes {
            bytes: vec![0; (CLUSTERS as usize) << bits],
            bits,
        };
        self.header(&mut image);
        let place = |cluster: u64| cluster << bits;
        image.put64(REFCOUNT_TABLE, 0, place(REFCOUNT_BLOCK));
        self.refcounts(&mut image);
        image.put64(L1, 0, place(L2) | 1 << 63);
        image.put64(L1, 1, place(L2 + 1) | 1 << 63);
        for (table, index, data) in [(L2, 0, DATA), (L2, 1, DATA + 1), (L2 + 1, 0, DATA + 2)] {
            let data = match self.data_file() {
                // As on the disk.
                Some(_) => (table - L2) * self.l2_entries() + index,
                None => data,
            };
            let entry = place(data) | 1 << 63;
            if self.extended_l2() {
                image.put64(table, 2 * index, entry);
                image.put64(table, 2 * index + 1, 0xffff_ffff); // All subclusters.
            } else {
                image.put64(table, index, entry);
            }
        }
        self.snapshot_table(&mut image);
        self.bitmap_directory(&mut image);
        for patch in &self.patches {
            let value = patch.entry.value(bits);
            let index = u64::from(patch.index) % (1 << bits >> 3);
            image.put64(u64::from(patch.cluster) % CLUSTERS, index, value);
        }
        image.bytes
    }

    fn header(&self, image: &mut Bytes) {
        let bits = self.cluster_bits();
        let clusters = u64::from(self.disk_clusters) % (2 * self.l2_entries()) + 1;
        let version = if self.version_2 { 2 } else { 3 };
        image.put32(0, 0, u32::from_be_bytes(*b"QFI\xfb"));
        image.put32(0, 4, version);
        image.put32(0, 20, bits);
        image.put64(0, 3, clusters << bits);
        image.put32(0, 36, 2);
        image.put64(0, 5, L1 << bits);
        image.put64(0, 6, REFCOUNT_TABLE << bits);
        image.put32(0, 56, 1);
        image.put32(0, 60, u32::from(self.snapshots % 3));
        image.put64(0, 8, SNAPSHOTS << bits);
        if self.version_2 {
            return;
        }
        // Dirty or marked corrupt; what is not supported is refused at once.
        let extended = u64::from(self.extended_l2()) << 4;
        let data_file = u64::from(self.data_file().is_some()) << 2;
        let incompatible = u64::from(self.incompatible & 3) | data_file | extended;
        image.put64(0, 9, incompatible);
        let raw = u64::from(self.data_file() == Some(true)) << 1;
        image.put64(0, 11, u64::from(self.autoclear & 1) | raw);
        image.put32(0, 96, self.refcount_order());
        image.put32(0, 100, 104);
        // The extension of bitmaps, behind the header.
        image.put32(0, 104, 0x2385_2875);
        image.put32(0, 108, 24);
        image.put32(0, 112, u32::from(self.bitmaps % 3));
        image.put64(0, 15, u64::from(self.bitmaps % 3) * BITMAP_ENTRY);
        image.put64(0, 16, BITMAPS << bits);
        if self.data_file().is_some() {
            // The extension of the data file's name, behind that.
            image.put32(0, 136, u32::from_be_bytes(*b"DATA"));
            image.put32(0, 140, 4);
            image.put32(0, 144, u32::from_be_bytes(*b"data"));
        }
    }

    fn refcounts(&self, image: &mut Bytes) {
        let order = self.refcount_order();
        let width = 1usize << order;
        let start = (REFCOUNT_BLOCK << image.bits) as usize;
        let held = ((8u64 << image.bits) >> order).min(USED);
        for cluster in 0..held as usize {
            if self.data_file().is_some() && (DATA..SNAPSHOTS).contains(&(cluster as u64)) {
                continue; // Nothing uses them.
            }
            match width {
                // Numbers lie in their bytes from the lowest bit up.
                1..8 => image.bytes[start + cluster * width / 8] |= 1 << (cluster * width % 8),
                _ => image.bytes[start + (cluster + 1) * width / 8 - 1] = 1,
            }
        }
    }

    fn snapshot_table(&self, image: &mut Bytes) {
        let start = SNAPSHOTS << image.bits;
        let mut at = start;
        for _ in 0..self.snapshots % 3 {
            let table = SNAPSHOT_L1 << image.bits;
            let mut entry = table.to_be_bytes().to_vec();
            entry.extend(2u32.to_be_bytes());
            entry.extend([0, 1, 0, 1]); // Lengths of id and name.
            entry.resize(36, 0);
            entry.extend([0, 0, 0, 16]); // Extra data.
            entry.resize(56, 0);
            entry.extend(*b"1s");
            entry.resize(64, 0);
            image.bytes[at as usize..at as usize + entry.len()].copy_from_slice(&entry);
            at += entry.len() as u64;
        }
    }

    fn bitmap_directory(&self, image: &mut Bytes) {
        let mut at = (BITMAPS << image.bits) as usize;
        for n in 0..self.bitmaps % 3 {
            let mut entry = (BITMAP_TABLE << image.bits).to_be_bytes().to_vec();
            entry.extend(1u32.to_be_bytes());
            entry.extend([0, 0, 0, 2]); // Automatic.
            entry.extend([1, 16, 0, 1]); // Type, granularity, length of the name.
            entry.extend([0, 0, 0, 0, b'a' + n]); // No extra data.
            entry.resize(BITMAP_ENTRY as usize, 0);
            image.bytes[at..at + entry.len()].copy_from_slice(&entry);
            at += entry.len();
        }
    }
}

impl Entry {
    fn value(&self, bits: u32) -> u64 {
        match *self {
            Self::Raw(raw) => raw,
            Self::Cluster { number, high, low } => {
                u64::from(high) << 56 | u64::from(number) << bits | u64::from(low)
            }
            Self::Compressed { sector, sectors } => {
                let shift = 62 - (bits - 8);
                1 << 62 | u64::from(sectors) << shift & !(3 << 62) | u64::from(sector) << 9
            }
            Self::Small(small) => small.into(),
        }
    }
}

/// The file under construction.
struct Bytes {
    bytes: Vec<u8>,
    bits: u32,
}

impl Bytes {
    /// Sets the 64-bit word number `index` of a cluster.
    fn put64(&mut self, cluster: u64, index: u64, value: u64) {
        let at = ((cluster << self.bits) + index * 8) as usize;
        self.bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Sets the 32-bit word at a byte of a cluster.
    fn put32(&mut self, cluster: u64, at: u64, value: u32) {
        let at = ((cluster << self.bits) + at) as usize;
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}
