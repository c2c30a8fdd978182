//! Making a new image: header, refcount table, refcount blocks and L1 side by side at the start of
//! the file; with preallocated metadata also all L2 tables and the clusters they name.

use strata_exec::mem::to_usize;
use strata_storage::{
    Storage,
    error::{Error, Result},
};

use crate::{
    backing::Backing,
    qcow2::{
        Compression, DataFile,
        layout::{
            entry::{Entry, RawEntry, encode_l1, encode_l2},
            extensions::Extensions,
            geometry::{
                Geometry, HostCluster, MAX_CLUSTER_BITS, MIN_CLUSTER_BITS,
                MIN_EXTENDED_CLUSTER_BITS,
            },
            header::{Header, LAZY_REFCOUNTS},
            header_area::HeaderArea,
            width,
        },
    },
    size,
};

/// What is allocated when an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// All tables, and a place for every cluster, without writing the clusters.
    Metadata,
    /// The same, and the file system keeps room for the clusters.
    Falloc,
    /// The same, and the clusters are written.
    Full,
}

impl Preallocation {
    /// How people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }

    /// What people have written so.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Off, Self::Metadata, Self::Falloc, Self::Full];
        all.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether this can be had in `file`: a device has all its room already, and cannot be asked
    /// for it.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_file(self, file: &Storage) -> Result<()> {
        match self {
            Self::Falloc | Self::Full if file.has_fixed_len() => Err(Error::Image {
                file: file.path().to_owned(),
                why: format!(
                    "Preallocation mode '{}' unsupported for this non-regular file",
                    self.name()
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Sees to it that a range of a new file, which reads as zeros, has as much of its own as this
    /// asks for.
    pub async fn reserve(self, file: &Storage, offset: u64, len: u64) -> Result<()> {
        match self {
            Self::Off | Self::Metadata => Ok(()),
            Self::Falloc => Ok(file.reserve(offset, len).await?),
            Self::Full => Ok(file.write_zeroes_in_full(offset, len).await?),
        }
    }
}

/// How an image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the virtual disk; rounded up to 512.
    pub size: u64,
    /// Bytes in a cluster: a power of two, 512 to 2 MiB.
    pub cluster_size: u64,
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// The backing file to name. It is not looked at.
    pub backing: Option<Backing>,
    /// Width of a refcount in bits: a power of two up to 64, and 16 for version 2.
    pub refcount_bits: u32,
    /// L2 entries have 128 bits, and describe 32 subclusters of a cluster (version 3, clusters of
    /// 16 KiB at least).
    pub extended_l2: bool,
    /// Others may postpone refcount updates (version 3).
    pub lazy_refcounts: bool,
    /// What is allocated now.
    pub preallocation: Preallocation,
    /// How clusters are going to be compressed (other than deflate: version 3).
    pub compression: Compression,
    /// The external data file to name (version 3). It is not touched here; it has to read as zeros.
    pub data_file: Option<DataFile>,
}

impl Default for CreateOptions {
    /// The usual options, for a disk without bytes.
    fn default() -> Self {
        Self {
            size: 0,
            cluster_size: 65536,
            version: 3,
            backing: None,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            preallocation: Preallocation::Off,
            compression: Compression::Deflate,
            data_file: None,
        }
    }
}

impl CreateOptions {
    /// Whether an image can be made so, as far as the options alone say.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> std::result::Result<(), String> {
        self.geometry().map(drop)
    }

    fn has_raw_data(&self) -> bool {
        self.data_file.as_ref().is_some_and(|file| file.raw)
    }

    /// What is really allocated: readers of a raw data file go by the tables as others do, so these
    /// say from the beginning that all data is there.
    fn allocation(&self) -> Preallocation {
        match self.preallocation {
            Preallocation::Off if self.has_raw_data() => Preallocation::Metadata,
            asked_for => asked_for,
        }
    }

    /// Checks the options; returns also the size of the disk, rounded up.
    pub(in crate::qcow2) fn geometry(&self) -> std::result::Result<(Geometry, u64), String> {
        let bits = self.cluster_size.trailing_zeros();
        if !self.cluster_size.is_power_of_two()
            || !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&bits)
        {
            return Err("Cluster size must be a power of two between 512 and 2048k".into());
        }
        if self.extended_l2 && bits < MIN_EXTENDED_CLUSTER_BITS {
            let least = 1 << MIN_EXTENDED_CLUSTER_BITS;
            return Err(format!(
                "Extended L2 entries are only supported with cluster sizes of at least {least} bytes"
            ));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err("Refcount width must be a power of two and may not exceed 64 bits".into());
        }
        match self.version {
            3 => {}
            2 if self.refcount_bits != 16 => {
                return Err("Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)".into());
            }
            2 if self.extended_l2 => {
                return Err("Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)".into());
            }
            2 if self.lazy_refcounts => {
                return Err("Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)".into());
            }
            2 if self.compression != Compression::Deflate => {
                return Err("Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)".into());
            }
            2 if self.data_file.is_some() => {
                return Err("External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)".into());
            }
            2 => {}
            other => return Err(format!("qcow2 version {other} is not supported")),
        }
        let size = size::in_sectors(self.size)?;
        let geometry = Geometry {
            version: self.version,
            cluster_bits: bits,
            extended_l2: self.extended_l2,
            refcount_order: self.refcount_bits.trailing_zeros(),
            external_data: self.data_file.is_some(),
        };
        if size > geometry.max_size() {
            return Err(
                "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
                    .into(),
            );
        }
        if self.has_raw_data() && self.backing.is_some() {
            return Err("Backing file and data-file-raw cannot be used at the same time".into());
        }
        if self.preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2 {
            return Err("Backing file and preallocation can only be used at the same time if extended_l2 is on".into());
        }
        Ok((geometry, size))
    }
}

/// Where everything goes, in clusters.
#[derive(Debug)]
struct Plan {
    table: u64,
    table_len: u64,
    blocks: u64,
    blocks_len: u64,
    l1: u64,
    l2: u64,
    l2_len: u64,
    data: u64,
    total: u64,
}

impl Plan {
    fn new(g: &Geometry, size: u64, preallocation: Preallocation) -> Self {
        let l1_len = g.clusters_for(g.l1_entries(size) * 8);
        let (l2_len, data_len) = match preallocation {
            Preallocation::Off => (0, 0),
            _ if g.external_data => (g.l1_entries(size), 0),
            _ => (g.l1_entries(size), g.clusters_for(size)),
        };
        let (mut table_len, mut blocks_len) = (1, 1);
        loop {
            let total = 1 + table_len + blocks_len + l1_len + l2_len + data_len;
            let blocks = total.div_ceil(g.refcounts_per_block());
            let table = g.clusters_for(blocks * 8);
            if blocks <= blocks_len && table <= table_len {
                let blocks = 1 + table_len;
                let l1 = blocks + blocks_len;
                return Self {
                    table: 1,
                    table_len,
                    blocks,
                    blocks_len,
                    l1,
                    l2: l1 + l1_len,
                    l2_len,
                    data: if g.external_data {
                        0
                    } else {
                        l1 + l1_len + l2_len
                    },
                    total,
                };
            }
            blocks_len = blocks_len.max(blocks);
            table_len = table_len.max(table);
        }
    }
}

/// Makes an image in `file`, whose content is lost unless the options are refused. It is durable
/// when this returns; until the last moment it has no header, so that a half-made image is not
/// taken for one.
///
/// # Errors
/// What is wrong with the options; the host's error.
pub async fn create(file: Storage, options: CreateOptions) -> Result<()> {
    let refuse = |why| Error::Image {
        file: file.path().to_owned(),
        why,
    };
    let (g, size) = options.geometry().map_err(refuse)?;
    let plan = Plan::new(&g, size, options.allocation());
    let area = header_area(&g, size, &plan, &options).map_err(refuse)?;
    options.preallocation.check_file(&file)?;
    file.start_over(plan.total << g.cluster_bits).await?;
    write_refcounts(&file, &g, &plan).await?;
    write_mapping(&file, &g, size, &plan, options.has_raw_data()).await?;
    if !g.external_data {
        let data = plan.data << g.cluster_bits;
        let len = (plan.total << g.cluster_bits) - data;
        if file.has_fixed_len() {
            file.write_zeroes(data, len, true).await?;
        }
        options.preallocation.reserve(&file, data, len).await?;
    }
    file.flush().await?;
    let layout = area.layout();
    if let Some((offset, bytes)) = layout.tail {
        file.write_vec(offset, bytes).await?;
        file.flush().await?;
    }
    file.write_vec(0, layout.head).await?;
    file.flush().await?;
    Ok(())
}

fn header_area(
    g: &Geometry,
    size: u64,
    plan: &Plan,
    options: &CreateOptions,
) -> std::result::Result<HeaderArea, String> {
    let mut header = Header::new(*g, size);
    header.l1_size = u32::try_from(g.l1_entries(size)).map_err(|_| "the disk size is too large")?;
    header.l1_offset = plan.l1 << g.cluster_bits;
    header.refcount_table_offset = plan.table << g.cluster_bits;
    header.refcount_table_clusters =
        u32::try_from(plan.table_len).map_err(|_| "the disk size is too large")?;
    if options.compression == Compression::Zstd {
        header.set_zstd();
    }
    if options.lazy_refcounts {
        header.compatible |= LAZY_REFCOUNTS;
    }
    header.check_tables(plan.total << g.cluster_bits)?;
    let extensions = if g.version == 2 {
        Extensions::default()
    } else {
        Extensions::for_new_image()
    };
    let mut area = HeaderArea {
        header,
        extensions,
        backing_name: None,
    };
    if let Some(file) = &options.data_file {
        file.write_to(&mut area)?;
    }
    area.set_backing(options.backing.as_ref())?;
    Ok(area)
}

/// Writes the refcount table and its blocks: one reference to each cluster of the plan.
async fn write_refcounts(file: &Storage, g: &Geometry, plan: &Plan) -> Result<()> {
    let mut table = vec![0; g.cluster_len() * to_usize(plan.table_len)];
    for n in 0..plan.blocks_len {
        let at = to_usize(n) * 8;
        let offset = (plan.blocks + n) << g.cluster_bits;
        table[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        let mut block = vec![0; g.cluster_len()];
        let used = (plan.total - n * g.refcounts_per_block()).min(g.refcounts_per_block());
        for index in 0..to_usize(used) {
            width::set(&mut block, g.refcount_order, index, 1);
        }
        file.write_vec(offset, block).await?;
    }
    file.write_vec(plan.table << g.cluster_bits, table).await?;
    Ok(())
}

/// Writes L1, and the L2 tables that are preallocated.
async fn write_mapping(
    file: &Storage,
    g: &Geometry,
    size: u64,
    plan: &Plan,
    raw: bool,
) -> Result<()> {
    let l1_bytes = (plan.l2 - plan.l1) << g.cluster_bits;
    let mut l1 = vec![0; to_usize(l1_bytes)];
    for n in 0..plan.l2_len {
        let at = to_usize(n) * 8;
        let table = HostCluster(plan.l2 + n);
        l1[at..at + 8].copy_from_slice(&encode_l1(table, g).to_be_bytes());
        let first = n * g.l2_entries();
        let count = g.l2_entries().min(g.clusters_for(size) - first);
        let places = (first..first + count).map(|c| HostCluster(plan.data + c));
        let mut bytes: Vec<u8> = places
            .flat_map(|place| preallocated(place, g, raw))
            .collect();
        bytes.resize(g.cluster_len(), 0);
        file.write_vec(g.host_offset(table), bytes).await?;
    }
    file.write_vec(plan.l1 << g.cluster_bits, l1).await?;
    Ok(())
}

/// The L2 entry, as it lies in the file, of a cluster that nobody has written to. Its subclusters,
/// where there are any, are still those of the layer below, unless a `raw` data file has them.
fn preallocated(place: HostCluster, g: &Geometry, raw: bool) -> Vec<u8> {
    let entry = if g.extended_l2 && !raw {
        Entry::Plain {
            host: Some((place, true)),
            data: 0,
            zero: 0,
        }
    } else {
        Entry::data(place, g)
    };
    let RawEntry { descriptor, bitmap } = encode_l2(entry, g);
    let mut bytes = [descriptor.to_be_bytes(), bitmap.to_be_bytes()].concat();
    bytes.truncate(to_usize(g.l2_entry_bytes()));
    bytes
}

#[cfg(test)]
mod tests;
