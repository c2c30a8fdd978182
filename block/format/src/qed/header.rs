//! The header, at the start of the file.

use std::os::unix::ffi::OsStrExt;

use bitflags::bitflags;

use crate::backing::Backing;

/// Bytes of the header's fields.
pub(super) const LEN: usize = 64;
/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// Bytes in a backing file's name at most, as QEMU has it.
const MAX_BACKING_NAME: usize = 1023;

bitflags! {
    /// Features without which an image must not be used.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        /// There is a backing file.
        const BACKING_FILE = 1;
        /// The tables have to be checked before the image is written.
        const NEED_CHECK = 2;
        /// The backing file is raw.
        const BACKING_FORMAT_NO_PROBE = 4;
    }
}

/// The fields, checked against each other. Sizes and offsets are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub cluster_size: u64,
    /// Clusters in a table: a power of two, 1 to 16.
    pub table_clusters: u64,
    /// Clusters that the header and what goes with it take.
    pub header_clusters: u64,
    pub features: Features,
    pub compatible: u64,
    pub autoclear: u64,
    pub l1_offset: u64,
    pub image_size: u64,
    /// Offset and length of the backing file's name.
    pub name: (u32, u32),
}

impl Header {
    /// Bytes in a table.
    pub fn table_bytes(&self) -> u64 {
        self.table_clusters * self.cluster_size
    }

    /// Entries in a table.
    pub fn table_entries(&self) -> u64 {
        self.table_bytes() / 8
    }

    /// Bytes of the disk that one L2 table stands for.
    pub fn l2_coverage(&self) -> u64 {
        self.table_entries() * self.cluster_size
    }

    /// Bytes of the largest disk that the tables can stand for.
    pub fn max_size(&self) -> u64 {
        let limit = self.l2_coverage().saturating_mul(self.table_entries());
        limit.min(i64::MAX as u64)
    }

    /// Bytes that no table or data may lie in.
    pub fn bytes(&self) -> u64 {
        self.header_clusters * self.cluster_size
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8; LEN]) -> Result<Self, String> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..4] != b"QED\0" {
            return Err("is not a QED image".into());
        }
        let unknown = u64_at(16) & !Features::all().bits();
        if unknown != 0 {
            return Err(format!(
                "uses unknown features ({unknown:#x}): it needs a newer program"
            ));
        }
        let header = Self {
            cluster_size: u32_at(4).into(),
            table_clusters: u32_at(8).into(),
            header_clusters: u32_at(12).into(),
            features: Features::from_bits_truncate(u64_at(16)),
            compatible: u64_at(24),
            autoclear: u64_at(32),
            l1_offset: u64_at(40),
            image_size: u64_at(48),
            name: (u32_at(56), u32_at(60)),
        };
        header.check()?;
        Ok(header)
    }

    /// Checks the fields against each other.
    pub fn check(&self) -> Result<(), String> {
        let power_in = |n: u64, from, to| n.is_power_of_two() && (from..=to).contains(&n);
        if !power_in(self.cluster_size, 1 << 12, 1 << 26) {
            return Err(format!(
                "has a cluster size of {} bytes, which is not allowed",
                self.cluster_size
            ));
        }
        if !power_in(self.table_clusters, 1, 16) {
            return Err(format!(
                "has tables of {} clusters, which is not allowed",
                self.table_clusters
            ));
        }
        if self.header_clusters == 0 {
            return Err("has a header of no clusters".into());
        }
        if !self.l1_offset.is_multiple_of(self.cluster_size) || self.l1_offset < self.bytes() {
            return Err(format!(
                "has its L1 table at {:#x}, where it cannot be",
                self.l1_offset
            ));
        }
        let size = self.image_size;
        if !size.is_multiple_of(512) || size > self.max_size() {
            return Err(format!("shows {size} bytes, which its tables do not allow"));
        }
        let (offset, len) = self.name;
        if self.features.contains(Features::BACKING_FILE)
            && (len as usize > MAX_BACKING_NAME
                || u64::from(offset) + u64::from(len) > self.bytes())
        {
            return Err(
                "has a backing file's name that is too long or lies outside the header".into(),
            );
        }
        Ok(())
    }

    /// The bytes of the fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"QED\0".to_vec();
        for field in [self.cluster_size, self.table_clusters, self.header_clusters] {
            let field = u32::try_from(field).expect("of 32 bits, or checked");
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let features = self.features.bits();
        for field in [
            features,
            self.compatible,
            self.autoclear,
            self.l1_offset,
            self.image_size,
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.name.0, self.name.1] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Names another backing file. Returns the bytes for the start of the file, of one sector at
    /// most, and those that have to be durable before, with their offset: a name that does not fit
    /// the first sector never lies on the old one.
    ///
    /// # Errors
    /// The name is too long.
    pub fn set_backing(&mut self, backing: Option<&Backing>) -> Result<Layout, String> {
        let old = self.name;
        self.features
            .remove(Features::BACKING_FILE | Features::BACKING_FORMAT_NO_PROBE);
        self.name = (0, 0);
        let Some(backing) = backing else {
            return Ok(Layout {
                head: self.to_bytes(),
                tail: None,
            });
        };
        let name = backing.name.as_bytes();
        if name.len() > MAX_BACKING_NAME {
            return Err(format!(
                "the backing file's name has {} bytes, more than {MAX_BACKING_NAME}",
                name.len()
            ));
        }
        self.features.insert(Features::BACKING_FILE);
        let raw = backing.format.as_deref() == Some("raw");
        self.features.set(Features::BACKING_FORMAT_NO_PROBE, raw);
        let inside = LEN + name.len() <= SECTOR;
        // A cluster has 4096 bytes at least: there is room for two names of any length.
        let place = match inside {
            true => LEN,
            false if old.0 as usize + old.1 as usize <= 2048 => 2048,
            false => SECTOR,
        };
        let field = |n: usize| u32::try_from(n).expect("within the header's cluster");
        self.name = (field(place), field(name.len()));
        let mut head = self.to_bytes();
        if inside {
            head.extend_from_slice(name);
            return Ok(Layout { head, tail: None });
        }
        Ok(Layout {
            head,
            tail: Some((place as u64, name.to_vec())),
        })
    }
}

/// The bytes of a header and its name.
pub(super) struct Layout {
    pub head: Vec<u8>,
    pub tail: Option<(u64, Vec<u8>)>,
}
