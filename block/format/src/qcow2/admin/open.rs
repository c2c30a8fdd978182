//! Opening an image: everything that can be judged without walking the tables.

mod data_source;

use std::rc::Rc;

use strata_storage::{
    Storage,
    error::{Error, Result},
};

use crate::{
    qcow2::{
        Qcow2,
        data::{Compression, Data, DataOptions},
        file::ImageFile,
        layout::{
            entry::{self, refcount_block},
            geometry::{Geometry, HostRun, MAX_REFCOUNT_TABLE_BYTES},
            header::{Header, Incompatible, PROBE_LEN},
            header_area::HeaderArea,
            snapshot_table::{self, SnapshotEntry},
        },
        order::Order,
        space::{MetadataKind, MetadataMap, Space},
        tables::Tables,
    },
    root_table::RootTable,
    table_cache::TableCache,
};
use data_source::DataSource;

/// How an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Writes are refused, and so are no images that could only not be written.
    pub read_only: bool,
    /// Budget in bytes for cached L2 slices and refcount blocks together.
    pub cache_bytes: usize,
    /// Give the space of freed clusters back to the host.
    pub discard: bool,
    /// What becomes of an image without a usable refcount table or snapshot table.
    pub damaged: Damaged,
}

/// What becomes of an image without a usable refcount table or snapshot table. All but refusing it
/// only when it is opened `read_only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Damaged {
    /// It is not opened.
    #[default]
    Refused,
    /// It is opened for a check, which reports it; but not where the header is nonsense, as with
    /// QEMU.
    Reported,
    /// It is opened for a repair, which makes the table anew.
    Repaired,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            cache_bytes: 4 << 20,
            discard: true,
            damaged: Damaged::Refused,
        }
    }
}

impl Qcow2 {
    /// Opens the image in `file`. Nothing is written, unless the image was not closed cleanly and
    /// is opened for writing: then its refcounts are counted anew.
    ///
    /// # Errors
    /// What is wrong with it, or which feature it uses that is not supported, in one line.
    pub async fn open(file: Storage, options: OpenOptions) -> Result<Self> {
        Self::open_from(file, DataSource::Own, options).await
    }

    /// Opens the image in `file`, whose header says that its data lies in an external data file
    /// ([`Qcow2::data_file`]), which is `data`.
    ///
    /// # Errors
    /// As [`Qcow2::open`].
    pub async fn open_with_data(
        file: Storage,
        data: Storage,
        options: OpenOptions,
    ) -> Result<Self> {
        Self::open_from(file, DataSource::External(data), options).await
    }

    /// Opens the image in `file` for what its header says. Guest data cannot be read, so an
    /// encrypted image may be looked at, too.
    ///
    /// # Errors
    /// As [`Qcow2::open`].
    pub async fn open_header(file: Storage) -> Result<Self> {
        let options = OpenOptions {
            read_only: true,
            cache_bytes: 0,
            discard: false,
            damaged: Damaged::Refused,
        };
        Self::open_from(file, DataSource::Unread, options).await
    }

    async fn open_from(file: Storage, source: DataSource, options: OpenOptions) -> Result<Self> {
        let found = Found::read(&file, source, options).await?;
        let image = Self::assemble(file, found, options);
        image.load_bitmaps().await?;
        if !options.read_only && image.is_dirty() {
            image.rebuild_refcounts().await?;
        }
        Ok(image)
    }

    /// Puts the parts on each other, from the bottom up.
    fn assemble(file: Storage, found: Found, options: OpenOptions) -> Self {
        let geometry = found.area.header.geometry;
        let disk = DataOptions {
            size: found.area.header.size,
            readable: found.readable,
            discard: options.discard,
            compression: found.compression,
        };
        let cache = |share| TableCache::new(file.clone(), geometry.slice_bytes(), share);
        let refcount_share = options.cache_bytes / 4;
        let l2 = cache(options.cache_bytes - refcount_share);
        let blocks = cache(refcount_share);
        let locks = Rc::default();
        let read_only = options.read_only;
        let file = Rc::new(ImageFile::new(
            file, found.data, found.area, read_only, &locks,
        ));
        let space = Rc::new(Space::new(
            file.clone(),
            found.refcount_table,
            blocks,
            found.metadata,
            options.discard,
            &locks,
        ));
        let tables = Rc::new(Tables::new(
            file.clone(),
            space.clone(),
            found.l1,
            l2,
            &locks,
        ));
        let order = Rc::new(Order::new(file.clone(), space.clone(), tables.clone()));
        let data = Data::new(
            file.clone(),
            space.clone(),
            tables.clone(),
            order.clone(),
            disk,
            &locks,
        );
        Self {
            file,
            space,
            tables,
            order,
            data,
            geometry,
            lost_refcounts: found.lost_refcounts,
            bitmaps: Rc::default(),
        }
    }

    /// Why an image that could be opened for reading cannot be written, and what to do.
    pub fn writing_refused(&self) -> Option<String> {
        writing_refused(&self.file.area().header)
    }
}

/// What the file of an image holds, judged as far as can be without walking the tables.
struct Found {
    area: HeaderArea,
    /// Where guest data lies.
    data: Storage,
    readable: bool,
    compression: Compression,
    lost_refcounts: Option<String>,
    l1: RootTable,
    refcount_table: RootTable,
    metadata: MetadataMap,
}

impl Found {
    async fn read(file: &Storage, source: DataSource, options: OpenOptions) -> Result<Self> {
        let refuse = |why: String| Error::Image {
            file: file.path().to_owned(),
            why,
        };
        let mut area = read_header(file).await?.map_err(refuse)?;
        check_readable(&area).map_err(refuse)?;
        let readable = !matches!(source, DataSource::Unread);
        if readable && let Some(why) = encryption(&area.header) {
            return Err(refuse(why));
        }
        let data = source.resolve(file, &area).map_err(refuse)?;
        let lost_refcounts = check_tables(&mut area.header, file.len(), options).map_err(refuse)?;
        let header = &area.header;
        let compression = compression(header).map_err(refuse)?;
        if !options.read_only
            && let Some(why) = writing_refused(header)
        {
            return Err(refuse(why));
        }
        let l1 = RootTable::load(file, header.l1_offset, header.l1_size as usize).await?;
        let table_len = (header.refcount_table_bytes() / 8) as usize;
        let refcount_table = RootTable::load(file, header.refcount_table_offset, table_len).await?;
        let metadata = if options.read_only {
            MetadataMap::default()
        } else {
            map_for_writing(file, header, &l1.entries(), &refcount_table.entries()).await?
        };
        Ok(Self {
            area,
            data,
            readable,
            compression,
            lost_refcounts,
            l1,
            refcount_table,
            metadata,
        })
    }
}

/// Reads and parses the first cluster. The inner error is one of the image, the outer the host's.
pub(in crate::qcow2) async fn read_header(
    file: &Storage,
) -> Result<std::result::Result<HeaderArea, String>> {
    let start = file.read_vec(0, PROBE_LEN).await?;
    let bits = match Header::probe(&start) {
        Ok(bits) => bits,
        Err(why) => return Ok(Err(why)),
    };
    let cluster = file.read_vec(0, 1 << bits).await?;
    Ok(HeaderArea::parse(&cluster))
}

/// Checks where the header has its tables. For a check the image may have no refcount table that
/// can be read: then the header names none any more, and why is returned. The table of snapshots is
/// left to the check.
///
/// # Errors
/// What is wrong, and what to do.
fn check_tables(
    header: &mut Header,
    file_len: u64,
    options: OpenOptions,
) -> std::result::Result<Option<String>, String> {
    header.check_l1(file_len)?;
    let refcounts = header.check_refcount_table(file_len);
    let makes_sense = header.geometry.in_cluster(header.refcount_table_offset) == 0
        && header.refcount_table_bytes() <= MAX_REFCOUNT_TABLE_BYTES;
    match options.damaged {
        Damaged::Refused => refcounts
            .and(header.check_snapshot_table(file_len))
            .map_err(in_need_of_repair)?,
        Damaged::Reported if !makes_sense => refcounts.map_err(in_need_of_repair)?,
        Damaged::Reported | Damaged::Repaired => {
            if refcounts.is_err() {
                header.refcount_table_offset = 0;
                header.refcount_table_clusters = 0;
            }
            return Ok(refcounts.err());
        }
    }
    Ok(None)
}

pub(in crate::qcow2) fn in_need_of_repair(why: String) -> String {
    format!("{why}: repair it with 'strata-img check -r all'")
}

/// Features without which the content cannot be read right.
fn check_readable(area: &HeaderArea) -> std::result::Result<(), String> {
    let header = &area.header;
    let unknown = header.incompatible.bits() & !Incompatible::all().bits();
    if unknown != 0 {
        let names = area.extensions.feature_names(unknown);
        return Err(format!("Unsupported qcow2 feature(s): {names}"));
    }
    Ok(())
}

/// Why the data of an encrypted image cannot be read, and what to do.
fn encryption(header: &Header) -> Option<String> {
    let how = match header.crypt_method {
        0 => return None,
        1 => "AES (the old encryption of qcow2)".to_owned(),
        2 => "LUKS".to_owned(),
        other => format!("an unknown method ({other})"),
    };
    Some(format!(
        "is encrypted with {how}, which is not supported: make an image that is not encrypted of \
         it with 'qemu-img convert'"
    ))
}

/// How clusters are compressed. A type other than deflate needs its feature bit, and the bit such
/// a type (specification, "compression_type").
fn compression(header: &Header) -> std::result::Result<Compression, String> {
    let other_compression = header.incompatible.contains(Incompatible::COMPRESSION);
    match (other_compression, header.compression_type()) {
        (false, 0) => Ok(Compression::Deflate),
        (true, 1) => Ok(Compression::Zstd),
        (_, kind) => Err(format!("compression type {kind} is not supported")),
    }
}

pub(super) fn writing_refused(header: &Header) -> Option<String> {
    let bits = header.incompatible;
    let why = if bits.contains(Incompatible::CORRUPT) {
        "is marked corrupt and cannot be written: repair it with 'strata-img check -r all' first"
    } else if header.has_raw_data() && header.backing.is_some() {
        "has a backing file and a raw external data file, which cannot both be right: it cannot be written"
    } else if header.geometry.external_data && header.snapshots > 0 {
        "has internal snapshots and an external data file, which does not keep their data: it cannot be written"
    } else {
        return None;
    };
    Some(why.into())
}

/// Notes that `bytes` of a table lie at `offset` of the file.
fn note_table(
    map: &MetadataMap,
    geometry: &Geometry,
    offset: u64,
    bytes: u64,
    kind: MetadataKind,
) -> std::result::Result<(), String> {
    let run = HostRun {
        first: geometry.host_cluster(offset),
        count: geometry.clusters_for(bytes),
    };
    map.insert(run, kind)
        .map_err(|found| format!("{kind} at {offset:#x} overlaps {found}"))
}

/// Where all metadata of the image in `file` lies, with these entries of L1 and of the refcount
/// table.
///
/// # Errors
/// Some of it lies on other; the host's error.
pub(super) async fn map_for_writing(
    file: &Storage,
    header: &Header,
    l1: &[u64],
    refcount_table: &[u64],
) -> Result<MetadataMap> {
    let refuse = |why: String| Error::Image {
        file: file.path().to_owned(),
        why,
    };
    let snapshots = snapshot_table::read_entries(file, header)
        .await?
        .map_err(|why| refuse(in_need_of_repair(why)))?;
    let metadata = MetadataMap::default();
    map_metadata(&metadata, header, l1, refcount_table, file.len())
        .and_then(|()| map_snapshots(&metadata, header, &snapshots))
        .map_err(|why| refuse(cannot_be_written(&why)))?;
    Ok(metadata)
}

pub(super) fn cannot_be_written(why: &str) -> String {
    format!("{why}: the image is corrupt and cannot be written")
}

/// Notes where all metadata lies, and finds tables that lie on each other.
fn map_metadata(
    map: &MetadataMap,
    header: &Header,
    l1: &[u64],
    refcount_table: &[u64],
    file_len: u64,
) -> std::result::Result<(), String> {
    let g = &header.geometry;
    let add = |offset, bytes, kind| note_table(map, g, offset, bytes, kind);
    let inside = |offset: u64, kind: MetadataKind| {
        if offset < file_len {
            Ok(offset)
        } else {
            Err(format!("{kind} at {offset:#x} lies outside the file"))
        }
    };
    add(0, 1, MetadataKind::Header)?;
    add(header.l1_offset, l1.len() as u64 * 8, MetadataKind::L1)?;
    add(
        header.refcount_table_offset,
        header.refcount_table_bytes(),
        MetadataKind::RefcountTable,
    )?;
    for &raw in l1 {
        if let Some(table) = entry::decode_l1(raw, g)? {
            add(
                inside(g.host_offset(table.host), MetadataKind::L2)?,
                1,
                MetadataKind::L2,
            )?;
        }
    }
    for &raw in refcount_table {
        if let Some(block) = refcount_block(raw, g)? {
            let offset = inside(g.host_offset(block), MetadataKind::RefcountBlock)?;
            add(offset, 1, MetadataKind::RefcountBlock)?;
        }
    }
    Ok(())
}

/// Notes where the tables of internal snapshots lie. Their L2 tables and data have refcounts above
/// one, or no entry of the active tables.
fn map_snapshots(
    map: &MetadataMap,
    header: &Header,
    snapshots: &[(u64, SnapshotEntry)],
) -> std::result::Result<(), String> {
    let g = &header.geometry;
    let add = |offset, bytes, kind| note_table(map, g, offset, bytes, kind);
    let table_bytes = snapshots.iter().map(|(_, snapshot)| snapshot.len).sum();
    add(
        header.snapshots_offset,
        table_bytes,
        MetadataKind::SnapshotTable,
    )?;
    for (_, snapshot) in snapshots {
        add(
            snapshot.l1_offset,
            snapshot.l1_bytes(),
            MetadataKind::SnapshotL1,
        )?;
    }
    Ok(())
}
