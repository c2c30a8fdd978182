//! What a check of an image finds and puts right, in every format.

use serde::Serialize;

/// Lines of detail that are kept; the numbers go on counting.
const MAX_LINES: usize = 100_000;

/// What a check puts right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Space that is lost; and COPIED flags, if nothing else is wrong.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a check has found. Field names are those of QEMU's `ImageCheck`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Where the last used cluster ends, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_end_offset: u64,
    /// Clusters of the virtual disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_clusters: u64,
    /// Tables that could not be read.
    pub check_errors: u64,
    /// Clusters of the virtual disk that have a place in the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub allocated_clusters: u64,
    /// Those that do not follow the one before.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    #[serde(skip_serializing_if = "is_zero")]
    pub compressed_clusters: u64,
    /// Refcounts that are too high: space that is lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Everything that is wrong and not a leak.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Leaks that a repair has freed; not in `leaks` any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks_fixed: u64,
    /// What else a repair has put right; not in `corruptions` any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions_fixed: u64,
    /// Why a repair had to stop before anything was written.
    #[serde(skip)]
    pub refused: Option<String>,
    /// One line for each thing found.
    #[serde(skip)]
    pub lines: Vec<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl CheckReport {
    /// Nothing is wrong, not even a leak.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }

    pub(crate) fn corruption(&mut self, line: String) {
        self.corruptions += 1;
        self.line(line);
    }

    /// What is wrong, or has just been put right: a line that starts so.
    pub(crate) fn found(&mut self, repaired: bool, what: &str) {
        if repaired {
            self.corruptions_fixed += 1;
            self.line(format!("Repairing {what}"));
        } else {
            self.corruption(format!("ERROR {what}"));
        }
    }

    pub(crate) fn line(&mut self, line: String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line);
        }
    }
}
