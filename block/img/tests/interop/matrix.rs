//! The combinations of features that are tried.

/// The data file's name.
pub const DATA: &str = "data.raw";

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
    /// Data lies in a file of its own; whether that is a raw image of the disk.
    pub data_file: Option<bool>,
}

/// What an image has that nobody asked for anything.
pub const PLAIN: Case = Case {
    version: 3,
    cluster: 65536,
    refcount_bits: 16,
    lazy: false,
    extended_l2: false,
    compressed: None,
    snapshot: false,
    bitmap: false,
    backing: false,
    data_file: None,
};

impl Case {
    /// Bytes of the disk: enough for a dozen clusters, and for more than one table of small ones.
    pub fn size(&self) -> u64 {
        (self.cluster * 12).max(2 << 20)
    }

    /// The value of `-o`, for an image whose data file, if it has one, lies in `directory`.
    pub fn options(&self, directory: &str) -> String {
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
        if let Some(kind) = self.compressed.filter(|_| self.version > 2) {
            options += &format!(",compression_type={kind}");
        }
        if let Some(raw) = self.data_file {
            let on = on(raw);
            options += &format!(",data_file={directory}{DATA},data_file_raw={on}");
        }
        options
    }
}

/// Every combination that is tried.
pub fn cases() -> Vec<Case> {
    let mut cases = in_one_file();
    cases.extend(with_data_files());
    cases
}

/// Does `work` with every second combination and a seed for it, from number `part` on: so two tests
/// can run side by side.
pub fn half(part: usize, work: impl Fn(&Case, u64)) {
    for (n, case) in cases().iter().enumerate().skip(part).step_by(2) {
        println!("{n}: {case:?}");
        work(case, n as u64);
    }
}

/// Every cluster size with both versions, and the other features in turns: each value of each
/// meets small, usual and large clusters.
pub fn in_one_file() -> Vec<Case> {
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
                // Compressed clusters share one of the file, and the snapshot refers to each
                // cluster once more.
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
                data_file: None,
            });
        }
    }
    cases
}

/// External data files have neither snapshots nor compressed clusters, and raw ones nothing below.
pub fn with_data_files() -> impl Iterator<Item = Case> {
    let shifts = [9, 12, 14, 16, 21];
    let both = shifts.into_iter().enumerate();
    let both = both.flat_map(|(n, shift)| [(2 * n, shift, false), (2 * n + 1, shift, true)]);
    both.map(|(n, shift, raw)| Case {
        version: 3,
        cluster: 1 << shift,
        refcount_bits: [16, 1, 64][n % 3],
        lazy: n % 5 == 2,
        extended_l2: shift >= 14 && n % 4 < 2,
        compressed: None,
        snapshot: false,
        bitmap: n % 3 == 0,
        backing: !raw && n % 4 == 0,
        data_file: Some(raw),
    })
}

/// Each feature occurs, on its own and with others, so that nothing is left out unseen.
#[test]
fn every_feature_is_tried() {
    type Has = fn(&Case) -> bool;
    let cases = cases();
    let count = |has: Has| cases.iter().filter(|case| has(case)).count();
    let features: [(&str, Has); 17] = [
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
        ("data files", |c| c.data_file == Some(false)),
        ("raw data files", |c| c.data_file == Some(true)),
        ("data files and extended L2", |c| {
            c.data_file.is_some() && c.extended_l2
        }),
        ("data files and backing files", |c| {
            c.data_file.is_some() && c.backing
        }),
    ];
    for (name, has) in features {
        assert!(count(has) >= 2, "{name}");
    }
}
