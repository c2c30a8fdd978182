//! The same for QED.

use arbitrary::Arbitrary;

/// Bytes in a cluster: the smallest.
const CLUSTER: u64 = 4096;
/// Clusters of the file: header, L1, two L2 tables, three clusters of data.
const CLUSTERS: u64 = 7;

/// What the input says of an image.
#[derive(Debug, Arbitrary)]
pub struct Tables {
    /// Clusters of the disk: as many as the two L2 tables can hold.
    disk_clusters: u16,
    /// It has to be checked before it is written.
    dirty: bool,
    patches: Vec<Patch>,
}

/// A table entry that is not what it should be.
#[derive(Debug, Arbitrary)]
struct Patch {
    /// L1 or one of the L2 tables.
    table: u8,
    index: u16,
    entry: Entry,
}

#[derive(Debug, Arbitrary)]
enum Entry {
    Raw(u64),
    Cluster(u8),
    Zero,
}

impl Tables {
    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0; (CLUSTERS * CLUSTER) as usize];
        let entries = CLUSTER / 8;
        let disk = (u64::from(self.disk_clusters) % (2 * entries) + 1) * CLUSTER;
        bytes[..4].copy_from_slice(b"QED\0");
        put(&mut bytes, 4, CLUSTER | 1 << 32);
        put(&mut bytes, 12, 1);
        put(&mut bytes, 16, u64::from(self.dirty) << 1);
        put(&mut bytes, 40, CLUSTER);
        put(&mut bytes, 48, disk);
        let data = [(1, 0, 2), (1, 1, 3), (2, 0, 4), (2, 1, 5), (3, 0, 6)];
        for (table, index, cluster) in data {
            put(&mut bytes, table * CLUSTER + index * 8, cluster * CLUSTER);
        }
        for Patch {
            table,
            index,
            entry,
        } in &self.patches
        {
            let value = match *entry {
                Entry::Raw(raw) => raw,
                Entry::Cluster(number) => u64::from(number % 12) * CLUSTER,
                Entry::Zero => 1,
            };
            let table = u64::from(table % 3) + 1;
            let index = u64::from(*index) % entries;
            put(&mut bytes, table * CLUSTER + index * 8, value);
        }
        bytes
    }
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    let at = at as usize;
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
