//! The combinations of features that are tried.

/// One combination.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub version: u32,
    pub cluster: u64,
    pub refcount_bits: u32,
    pub lazy: bool,
    pub extended_l2: bool,
    /// Some clusters are compressed so.
    pub compressed: Option<&'static str>,
    pub snapshot: bool,
    pub bitmap: bool,
    pub backing: bool,
}

impl Case {
    /// Bytes of the disk: enough for a dozen clusters, and for more than one table of small ones.
    pub fn size(&self) -> u64 {
        (self.cluster * 12).max(2 << 20)
    }

    /// The value of `-o`.
    pub fn options(&self) -> String {
        let on = |on| if on { "on" } else { "off" };
        let mut options = format!("cluster_size={}", self.cluster);
        options += match self.version {
            2 => ",compat=0.10",
            _ => ",compat=1.1",
        };
        if self.version > 2 {
            options += &format!(
                ",refcount_bits={},lazy_refcounts={},extended_l2={}",
                self.refcount_bits,
                on(self.lazy),
                on(self.extended_l2)
            );
        }
        options
    }
}

/// Every cluster size with both versions, and the other features in turns: each value of each
/// meets small, usual and large clusters.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shift in 9..=21 {
        for n in 0..4 {
            let turn = shift as usize + 5 * n;
            let version = if n == 3 { 2 } else { 3 };
            let v3 = version == 3;
            let snapshot = turn % 2 == 1;
            let compressed = match turn % 5 {
                0 => Some("zlib"),
                1 if v3 => Some("zstd"),
                _ => None,
            };
            let refcount_bits = match [16, 1, 64, 4, 8, 32, 2][turn % 7] {
                _ if !v3 => 16,
                // Compressed clusters share one of the file, and the snapshot refers to each cluster
                // once more.
                1..8 if snapshot && compressed.is_some() => 16,
                1 if snapshot => 2,
                bits => bits,
            };
            cases.push(Case {
                version,
                cluster: 1 << shift,
                refcount_bits,
                lazy: v3 && turn.is_multiple_of(3),
                extended_l2: v3 && shift >= 14 && n == 1,
                compressed,
                snapshot,
                bitmap: v3 && turn % 4 == 2,
                backing: turn % 3 == 1,
            });
        }
    }
    cases
}

/// Each feature occurs, on its own and with others, so that nothing is left out unseen.
#[test]
fn every_feature_is_tried() {
    type Has = fn(&Case) -> bool;
    let cases = cases();
    let count = |has: Has| cases.iter().filter(|case| has(case)).count();
    let features: [(&str, Has); 13] = [
        ("version 2", |c| c.version == 2),
        ("lazy refcounts", |c| c.lazy),
        ("extended L2", |c| c.extended_l2),
        ("extended L2 and a backing file", |c| {
            c.extended_l2 && c.backing
        }),
        ("zlib", |c| c.compressed == Some("zlib")),
        ("zstd", |c| c.compressed == Some("zstd")),
        ("snapshots", |c| c.snapshot),
        ("snapshots of compressed clusters", |c| {
            c.snapshot && c.compressed.is_some()
        }),
        ("bitmaps", |c| c.bitmap),
        ("backing files", |c| c.backing),
        ("1 bit", |c| c.refcount_bits == 1),
        ("64 bits", |c| c.refcount_bits == 64),
        ("64 KiB", |c| c.cluster == 65536),
    ];
    for (name, has) in features {
        assert!(count(has) >= 2, "{name}");
    }
}
