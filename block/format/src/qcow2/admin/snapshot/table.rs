//! The table of snapshots (specification, "Snapshots"): reading and writing whole entries.

use strata_exec::mem::to_usize;
use strata_storage::error::{IoResult, Result};

use crate::qcow2::{
    Qcow2,
    admin::open::in_need_of_repair,
    layout::{
        fields::Fields,
        geometry::HostRun,
        header::Header,
        snapshot_table::{self, SnapshotEntry},
    },
    space::MetadataKind,
};

/// Bytes of an entry before its extra data, id and name.
const FIXED: usize = 40;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id: a number, as QEMU and we give them.
    pub id: String,
    /// Its name. Several may have the same.
    pub name: String,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// How long the machine had run, in nanoseconds; 0 without one.
    pub vm_clock_nsec: u64,
    /// Bytes of machine state that are kept with it.
    pub vm_state_size: u64,
    /// Instructions that the machine had run, where they were counted.
    pub icount: Option<u64>,
    /// Bytes of the disk, if the snapshot says it.
    pub disk_size: Option<u64>,
    pub(in crate::qcow2) l1_offset: u64,
    pub(in crate::qcow2) l1_size: u32,
    /// The extra data as it is in the file; what is not known is kept.
    pub(super) extra: Vec<u8>,
}

impl Snapshot {
    /// Reads a whole entry.
    pub(in crate::qcow2) fn parse(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        let (id_len, name_len) = (fields.u16(12).into(), fields.u16(14).into());
        let extra_len = fields.u32(36) as usize;
        let id = FIXED + extra_len;
        let extra = |at: usize| (extra_len >= at + 8).then(|| fields.u64(FIXED + at));
        let text = |from: usize, len: usize| {
            // To QEMU they are strings of C.
            let text = bytes[from..from + len].split(|&byte| byte == 0).next();
            String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
        };
        Self {
            id: text(id, id_len),
            name: text(id + id_len, name_len),
            date: (fields.u32(16), fields.u32(20)),
            vm_clock_nsec: fields.u64(24),
            vm_state_size: extra(0).unwrap_or_else(|| fields.u32(32).into()),
            icount: extra(16).filter(|&icount| icount != u64::MAX),
            disk_size: extra(8),
            l1_offset: fields.u64(0),
            l1_size: fields.u32(8),
            extra: bytes[FIXED..FIXED + extra_len].to_vec(),
        }
    }

    /// Fills in the extra data that version 3 asks for, in an entry of a program that knew of none:
    /// the disk had `disk_size` bytes.
    pub(in crate::qcow2) fn complete(&mut self, disk_size: u64) {
        self.disk_size = Some(disk_size);
        let icount = self.icount.unwrap_or(u64::MAX);
        self.extra = [self.vm_state_size, disk_size, icount]
            .map(u64::to_be_bytes)
            .concat();
    }

    pub(in crate::qcow2) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.l1_offset.to_be_bytes());
        out.extend_from_slice(&self.l1_size.to_be_bytes());
        for name in [&self.id, &self.name] {
            let len = u16::try_from(name.len()).expect("of 16-bit length, or checked");
            out.extend_from_slice(&len.to_be_bytes());
        }
        out.extend_from_slice(&self.date.0.to_be_bytes());
        out.extend_from_slice(&self.date.1.to_be_bytes());
        out.extend_from_slice(&self.vm_clock_nsec.to_be_bytes());
        let short = u32::try_from(self.vm_state_size).unwrap_or(u32::MAX);
        out.extend_from_slice(&short.to_be_bytes());
        let extra_len = u32::try_from(self.extra.len()).expect("of 32-bit length");
        out.extend_from_slice(&extra_len.to_be_bytes());
        out.extend_from_slice(&self.extra);
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

impl Qcow2 {
    /// The internal snapshots, in the order of the table.
    ///
    /// # Errors
    /// The table cannot be read, or is not valid.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let (header, entries) = self.snapshot_entries().await?;
        let mut snapshots = Vec::new();
        for (at, entry) in entries {
            let at = header.snapshots_offset + at;
            let bytes = self
                .file
                .storage()
                .read_vec(at, to_usize(entry.len))
                .await?;
            snapshots.push(Snapshot::parse(&bytes));
        }
        Ok(snapshots)
    }

    /// The entries of the table, as far as they say where things are, and the header that names
    /// them.
    async fn snapshot_entries(&self) -> Result<(Header, Vec<(u64, SnapshotEntry)>)> {
        let header = self.file.header();
        let entries = snapshot_table::read_entries(self.file.storage(), &header).await?;
        let entries = entries.map_err(|why| self.file.refused(in_need_of_repair(why)))?;
        Ok((header, entries))
    }

    /// Puts a table of `snapshots` in the place of the present one, in new clusters: durable, with
    /// all else, before the header names it (rules W4 and W5).
    pub(super) async fn write_snapshots(&self, snapshots: &[Snapshot]) -> IoResult<()> {
        let run = self.allocate_snapshots(snapshots).await?;
        self.store_snapshots(snapshots, run).await?;
        self.name_snapshots(snapshots, run).await
    }

    /// Room for a table of `snapshots`; none is needed for an empty one.
    pub(super) async fn allocate_snapshots(
        &self,
        snapshots: &[Snapshot],
    ) -> IoResult<Option<HostRun>> {
        let len: usize = snapshots.iter().map(|one| one.to_bytes().len()).sum();
        if len == 0 {
            return Ok(None);
        }
        let count = self.geometry.clusters_for(len as u64);
        Ok(Some(self.space.allocate_adjacent(count).await?))
    }

    /// Writes a table of `snapshots` into its room: durable, with all else.
    pub(super) async fn store_snapshots(
        &self,
        snapshots: &[Snapshot],
        run: Option<HostRun>,
    ) -> IoResult<()> {
        if let Some(run) = run {
            let g = &self.geometry;
            self.space.note_metadata(run, MetadataKind::SnapshotTable)?;
            let mut bytes: Vec<u8> = snapshots.iter().flat_map(Snapshot::to_bytes).collect();
            bytes.resize(to_usize(run.count * g.cluster_size()), 0);
            let offset = g.host_offset(run.first);
            self.file.storage().write_vec(offset, bytes).await?;
        }
        self.flush().await
    }

    /// Has the header name a table that has been stored; the one before is free.
    pub(super) async fn name_snapshots(
        &self,
        snapshots: &[Snapshot],
        run: Option<HostRun>,
    ) -> IoResult<()> {
        let old = self.snapshot_table().await?;
        let change = |header: &mut Header| {
            header.snapshots = u32::try_from(snapshots.len()).expect("MAX_SNAPSHOTS at most");
            header.snapshots_offset = run.map_or(0, |run| self.geometry.host_offset(run.first));
        };
        self.file.change_header(change).await?;
        self.space.forget_metadata(old);
        self.space.free_later(old);
        Ok(())
    }

    /// The clusters of the present table.
    async fn snapshot_table(&self) -> IoResult<HostRun> {
        let header = self.file.header();
        let entries = snapshot_table::read_entries(self.file.storage(), &header).await?;
        let entries = entries.map_err(|why| self.file.corrupt(why))?;
        let len = entries.iter().map(|(_, entry)| entry.len).sum();
        Ok(HostRun {
            first: self.geometry.host_cluster(header.snapshots_offset),
            count: self.geometry.clusters_for(len),
        })
    }
}
