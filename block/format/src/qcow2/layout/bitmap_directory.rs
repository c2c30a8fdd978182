//! The bitmap directory (specification, "Bitmap directory").

use bitflags::bitflags;

use super::{fields::Fields, geometry::Geometry};
use crate::bitmap;

/// Bytes of an entry before its extra data and name.
const FIXED: usize = 24;
/// Bitmaps in a directory at most.
pub const MAX_BITMAPS: u32 = 65535;
/// Bytes of a directory at most.
pub const MAX_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;
/// Bytes that a bitmap's clusters may take at most.
pub const MAX_BITMAP_BYTES: u64 = 512 << 20;
/// The one type that there is: bitmaps that track changes.
const TRACKING: u8 = 1;

bitflags! {
    /// Flags of a bitmap.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// It was not stored since it was last in use: what it says may be wrong.
        const IN_USE = 1;
        /// Writes are to be recorded in it.
        const AUTO = 2;
        /// A program that does not understand its extra data may use it.
        const EXTRA_DATA_COMPATIBLE = 4;
    }
}

/// One bitmap, as the directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where its table starts.
    pub table: u64,
    /// Entries of that table.
    pub table_len: u32,
    /// Flags; unknown ones are kept.
    pub flags: Flags,
    /// 1 for bitmaps that track changes.
    pub kind: u8,
    /// log2 of the bytes that share a bit.
    pub granularity_bits: u8,
    /// What others know about it.
    pub extra: Vec<u8>,
    /// Its name.
    pub name: String,
}

impl Entry {
    /// An entry for a new bitmap that is being stored.
    pub fn new(table: u64, table_len: u32, bitmap: &bitmap::DirtyBitmap) -> Self {
        let mut flags = Flags::empty();
        flags.set(Flags::AUTO, bitmap.is_recording());
        Self {
            table,
            table_len,
            flags,
            kind: TRACKING,
            granularity_bits: u8::try_from(bitmap.granularity_bits()).expect("at most 31"),
            extra: Vec::new(),
            name: bitmap.name().to_owned(),
        }
    }

    /// Whether the bitmap says what it means, and we know what that is.
    pub fn is_usable(&self) -> bool {
        let foreign = !self.extra.is_empty() && !self.flags.contains(Flags::EXTRA_DATA_COMPATIBLE);
        !self.is_foreign() && !foreign && !self.flags.contains(Flags::IN_USE)
    }

    /// Whether this is a bitmap of a kind, or with flags, that the specification does not have.
    pub fn is_foreign(&self) -> bool {
        self.kind != TRACKING || !Flags::all().contains(self.flags)
    }

    /// What is wrong with such a bitmap, in QEMU's words.
    pub fn fault(&self) -> Option<String> {
        let name = self.name.escape_debug();
        let said = || format!("Bitmap '{name}' doesn't satisfy the constraints");
        self.is_foreign().then(said)
    }

    /// Whether the directory has to say that the bitmap is in use while the disk is written.
    pub fn goes_stale(&self) -> bool {
        self.is_usable() || self.flags.contains(Flags::AUTO)
    }

    fn parse(bytes: &[u8], geometry: &Geometry) -> Result<(Self, usize), String> {
        let cut_off = || "the bitmap directory is cut off".to_owned();
        let fixed = bytes.get(..FIXED).ok_or_else(cut_off)?;
        let fields = Fields(fixed);
        let name_len = usize::from(fields.u16(18));
        let name_at = FIXED + fields.u32(20) as usize;
        let name = bytes.get(name_at..name_at + name_len).ok_or_else(cut_off)?;
        let name = std::str::from_utf8(name).ok();
        let entry = Self {
            table: fields.u64(0),
            table_len: fields.u32(8),
            flags: Flags::from_bits_retain(fields.u32(12)),
            kind: fixed[16],
            granularity_bits: fixed[17],
            extra: bytes[FIXED..name_at].to_vec(),
            name: name.ok_or("a bitmap's name is not UTF-8 text")?.to_owned(),
        };
        entry.check(geometry)?;
        Ok((entry, (name_at + name_len).next_multiple_of(8)))
    }

    fn check(&self, geometry: &Geometry) -> Result<(), String> {
        let Self {
            table, table_len, ..
        } = *self;
        let bad = |what: String| Err(format!("bitmap '{}' {what}", self.name.escape_debug()));
        if self.name.is_empty() || self.name.len() > bitmap::MAX_NAME {
            return bad("has no valid name".into());
        }
        if !bitmap::GRANULARITY_BITS.contains(&u32::from(self.granularity_bits)) {
            return bad(format!(
                "has a granularity of 2^{} bytes",
                self.granularity_bits
            ));
        }
        if geometry.in_cluster(table) != 0 || table == 0 {
            return bad(format!("has its table at {table:#x}"));
        }
        let bytes = u64::from(table_len) << geometry.cluster_bits;
        if table_len == 0 || bytes > MAX_BITMAP_BYTES {
            return bad(format!("has a table of {table_len} entries"));
        }
        Ok(())
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend(self.table.to_be_bytes());
        out.extend(self.table_len.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend([self.kind, self.granularity_bits]);
        let name_len = u16::try_from(self.name.len()).expect("at most MAX_NAME");
        let extra_len = u32::try_from(self.extra.len()).expect("of 32-bit length");
        out.extend(name_len.to_be_bytes());
        out.extend(extra_len.to_be_bytes());
        out.extend(&self.extra);
        out.extend(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
}

/// Reads a directory of `count` entries, which fill `bytes`.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], count: u32, geometry: &Geometry) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut names = std::collections::HashSet::new();
    let mut rest = bytes;
    for _ in 0..count {
        let (entry, len) = Entry::parse(rest, geometry)?;
        rest = rest.get(len..).ok_or("the bitmap directory is cut off")?;
        if !names.insert(entry.name.clone()) {
            return Err(format!("there are two bitmaps '{}'", entry.name));
        }
        entries.push(entry);
    }
    if !rest.is_empty() {
        return Err("the bitmap directory holds more than its entries".into());
    }
    Ok(entries)
}

/// The directory as it lies in the file.
pub fn to_bytes<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    entries
        .into_iter()
        .for_each(|entry| entry.write_to(&mut out));
    out
}

#[cfg(test)]
mod tests;
