//! Header extensions (specification, "Header extensions"). Those that are not understood are kept
//! byte for byte.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use super::fields::Fields;

/// Ends the list.
const END: u32 = 0;
/// Format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Names of feature bits, for error messages.
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Persistent dirty bitmaps.
const BITMAPS: u32 = 0x2385_2875;
/// Name of the external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// Bytes of one entry of the feature name table.
const FEATURE_NAME_LEN: usize = 48;

/// Names that new images carry: kind of feature (0 incompatible, 1 compatible, 2 autoclear), bit.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// Where the directory of persistent bitmaps lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryPlace {
    /// Bitmaps.
    pub count: u32,
    /// Bytes.
    pub len: u64,
    /// Offset in the file.
    pub offset: u64,
}

/// One extension.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Extension {
    kind: u32,
    data: Vec<u8>,
}

/// The list, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(Vec<Extension>);

impl Extensions {
    /// The extensions of a new version 3 image.
    pub fn for_new_image() -> Self {
        let mut list = Self::default();
        list.add_feature_names();
        list
    }

    /// Adds the feature name table.
    pub fn add_feature_names(&mut self) {
        let mut data = Vec::with_capacity(FEATURES.len() * FEATURE_NAME_LEN);
        for (kind, bit, name) in FEATURES {
            let mut entry = [0; FEATURE_NAME_LEN];
            entry[0] = kind;
            entry[1] = bit;
            entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
            data.extend_from_slice(&entry);
        }
        let kind = FEATURE_NAMES;
        self.0.push(Extension { kind, data });
    }

    /// Reads the list from `area`, the bytes between the header and the backing file's name (or
    /// the end of the first cluster).
    ///
    /// # Errors
    /// An extension that does not fit the area.
    pub fn parse(mut area: &[u8]) -> Result<Self, String> {
        let mut list = Vec::new();
        while area.len() >= 8 {
            let kind = Fields(area).u32(0);
            if kind == END {
                break;
            }
            let len = Fields(area).u32(4) as usize;
            let rest = &area[8..];
            if len > rest.len() {
                return Err(format!(
                    "header extension {kind:#x} of {len} bytes does not fit the header cluster"
                ));
            }
            list.push(Extension {
                kind,
                data: rest[..len].to_vec(),
            });
            area = &rest[len.next_multiple_of(8).min(rest.len())..];
        }
        Ok(Self(list))
    }

    /// The list as it lies in the file, with its end mark.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for Extension { kind, data } in &self.0 {
            out.extend_from_slice(&kind.to_be_bytes());
            let len = u32::try_from(data.len()).expect("they fit into a cluster");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend_from_slice(&[0; 8]);
        out
    }

    /// Format of the backing file, if the image names one.
    pub fn backing_format(&self) -> Option<String> {
        let data = self.find(BACKING_FORMAT)?;
        Some(String::from_utf8_lossy(data).into_owned())
    }

    /// Sets or removes the format of the backing file. It comes first, where the header's first
    /// sector holds it.
    pub fn set_backing_format(&mut self, format: Option<&str>) {
        self.0.retain(|e| e.kind != BACKING_FORMAT);
        if let Some(format) = format {
            let data = format.as_bytes().to_vec();
            let kind = BACKING_FORMAT;
            self.0.insert(0, Extension { kind, data });
        }
    }

    /// Name of the external data file, if the image names one.
    pub fn data_file(&self) -> Option<OsString> {
        let data = self.find(DATA_FILE)?;
        Some(OsStr::from_bytes(data).to_owned())
    }

    /// Names the external data file, or none. It comes first, where the header's first sector holds
    /// it.
    pub fn set_data_file(&mut self, name: Option<&OsStr>) {
        self.0.retain(|e| e.kind != DATA_FILE);
        if let Some(name) = name {
            let data = name.as_bytes().to_vec();
            let kind = DATA_FILE;
            self.0.insert(0, Extension { kind, data });
        }
    }

    /// Removes the feature name table, which is for error messages only.
    pub fn drop_feature_names(&mut self) {
        self.0.retain(|e| e.kind != FEATURE_NAMES);
    }

    /// Where the directory of persistent bitmaps lies, if the image has one.
    ///
    /// # Errors
    /// Inner: what is wrong with the extension (specification, "Bitmaps extension").
    pub fn bitmap_directory(&self) -> Option<Result<DirectoryPlace, String>> {
        let data = self.find(BITMAPS)?;
        let Ok(data) = <&[u8; 24]>::try_from(data) else {
            return Some(Err("the bitmaps extension has a wrong length".into()));
        };
        let fields = Fields(data);
        if fields.u32(4) != 0 {
            return Some(Err("the bitmaps extension has reserved bits set".into()));
        }
        Some(Ok(DirectoryPlace {
            count: fields.u32(0),
            len: fields.u64(8),
            offset: fields.u64(16),
        }))
    }

    /// Sets or removes the place of the directory of persistent bitmaps. It stands where the
    /// header's first sector holds it.
    pub fn set_bitmap_directory(&mut self, place: Option<DirectoryPlace>) {
        self.0.retain(|e| e.kind != BITMAPS);
        if let Some(DirectoryPlace { count, len, offset }) = place {
            let mut data = u64::from(count).to_be_bytes().to_vec();
            data.rotate_left(4);
            data.extend(len.to_be_bytes());
            data.extend(offset.to_be_bytes());
            let kind = BITMAPS;
            self.0.insert(0, Extension { kind, data });
        }
    }

    /// What the image itself calls these incompatible features, in its order; then the bits that it
    /// has no name for. In QEMU's words.
    pub fn feature_names(&self, mut bits: u64) -> String {
        let mut names = Vec::new();
        let table = self.find(FEATURE_NAMES).unwrap_or_default();
        for entry in table.chunks(FEATURE_NAME_LEN) {
            // The last one may be cut short.
            if entry.len() < 3 {
                continue;
            }
            let bit = 1u64.checked_shl(entry[1].into()).unwrap_or(0);
            if entry[0] != 0 || bits & bit == 0 {
                continue;
            }
            bits &= !bit;
            let name = entry[2..].split(|&b| b == 0).next().unwrap_or_default();
            let printable = String::from_utf8_lossy(name);
            names.push(printable.chars().filter(|c| !c.is_control()).collect());
        }
        if bits != 0 {
            names.push(format!("Unknown incompatible feature: {bits:x}"));
        }
        names.join(", ")
    }

    /// Of several extensions of a kind the last counts, as with QEMU.
    fn find(&self, kind: u32) -> Option<&[u8]> {
        let found = self.0.iter().rfind(|e| e.kind == kind)?;
        Some(&found.data)
    }
}

#[cfg(test)]
mod tests;
