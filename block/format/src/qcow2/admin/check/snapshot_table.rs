//! The table of internal snapshots: what is wrong with it, and a new one without that.
//!
//! Entries that lead nowhere are dropped: what they kept cannot be found. The new table is durable,
//! and counted, before the header names it.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::{
    Qcow2, Snapshot,
    layout::{
        fields::Fields,
        geometry::{HostCluster, HostRun, MAX_SNAPSHOTS},
        snapshot_table::{MAX_EXTRA, MAX_TABLE, SnapshotEntry},
        width,
    },
};

/// Bytes of an entry before its extra data, id and name.
const FIXED: u64 = 40;
/// Bytes of extra data at least, in version 3 (specification, "Snapshots").
const MIN_EXTRA: u64 = 16;
/// Bytes of extra data in an entry that has been completed.
const COMPLETE_EXTRA: u64 = 24;
/// Bytes that a table which is too big is followed for.
const MAX_FOLLOWED: u64 = i32::MAX as u64;

/// Something that is wrong with the table.
pub(super) struct Fault {
    pub what: String,
    /// What a repair says, and does.
    repair: String,
    /// Entries that are concerned.
    pub count: u64,
    /// Counting references runs into it, too.
    pub uncountable: bool,
}

/// The table as far as it can be followed.
#[derive(Default)]
pub(super) struct Survey {
    pub faults: Vec<Fault>,
    /// The entries that lead somewhere, put right.
    kept: Vec<Snapshot>,
    /// Bytes of the table.
    len: u64,
    /// Bytes that its entries take once they are put right.
    right_len: u64,
}

/// What one entry turned out to be.
enum Found {
    Entry {
        snapshot: Snapshot,
        len: u64,
        right_len: u64,
    },
    /// It is not an entry, and so there is no way to the next one.
    End,
}

impl Survey {
    fn fault(&mut self, what: String, repair: String) {
        self.faults.push(Fault {
            what,
            repair,
            count: 1,
            uncountable: false,
        });
    }

    fn drop_rest(&mut self, count: u32, why: &str, uncountable: bool) {
        self.faults.push(Fault {
            what: format!("{count} overhanging snapshots ({why})"),
            repair: format!("Discarding {count} overhanging snapshots ({why})"),
            count: count.into(),
            uncountable,
        });
    }
}

impl Qcow2 {
    /// Goes through the table that the header names.
    pub(super) async fn survey_snapshots(&self) -> IoResult<Survey> {
        let header = self.file.header();
        let mut survey = Survey::default();
        let count = header.snapshots.min(MAX_SNAPSHOTS);
        if let Err(why) = header.check_snapshot_place(self.file.storage().len()) {
            survey.drop_rest(header.snapshots, &why, true);
            return Ok(survey);
        }
        for index in 0..count {
            let at = header.snapshots_offset + survey.len;
            match self.survey_entry(&mut survey, index, at).await? {
                Found::Entry {
                    snapshot,
                    len,
                    right_len,
                } => {
                    survey.len += len;
                    survey.right_len += right_len;
                    self.keep_or_drop(&mut survey, index, snapshot);
                }
                Found::End => {
                    let why = "snapshot table is too big";
                    survey.drop_rest(count - index, why, true);
                    break;
                }
            }
        }
        if header.snapshots > count {
            let why = format!("there can be {MAX_SNAPSHOTS}");
            survey.drop_rest(header.snapshots - count, &why, false);
        }
        Ok(survey)
    }

    /// Reads the entry at `at`, with extra data as it should be.
    async fn survey_entry(&self, survey: &mut Survey, index: u32, at: u64) -> IoResult<Found> {
        let end = self.file.storage().len();
        if at >= end {
            return Ok(Found::End);
        }
        let mut fixed = self.file.storage().read_vec(at, to_usize(FIXED)).await?;
        let fields = Fields(&fixed);
        let names = u64::from(fields.u16(12)) + u64::from(fields.u16(14));
        let extra_len = u64::from(fields.u32(36));
        let len = (FIXED + extra_len + names).next_multiple_of(8);
        let extra = extra_len.min(MAX_EXTRA);
        let right_extra = if self.geometry.version > 2 && extra_len < MIN_EXTRA {
            COMPLETE_EXTRA
        } else {
            extra
        };
        let right_len = (FIXED + right_extra + names).next_multiple_of(8);
        if survey.right_len + right_len > MAX_TABLE || survey.len + len > MAX_FOLLOWED {
            return Ok(Found::End);
        }
        // What would lie behind the end of the file reads as zeros: better a snapshot without a
        // name than none.
        let extra_field = u32::try_from(extra).expect("MAX_EXTRA at most");
        fixed[36..].copy_from_slice(&extra_field.to_be_bytes());
        let behind = self
            .file
            .storage()
            .read_vec(at + FIXED, extra as usize)
            .await?;
        let names_at = at + FIXED + extra_len;
        let names = self
            .file
            .storage()
            .read_vec(names_at, to_usize(names))
            .await?;
        let mut snapshot = Snapshot::parse(&[fixed, behind, names].concat());
        if extra_len > MAX_EXTRA {
            let what = format!(
                "too much extra metadata in snapshot table entry {index} ({extra_len} > {MAX_EXTRA})"
            );
            survey.fault(what.clone(), format!("Discarding {what}"));
        }
        if self.geometry.version > 2 && extra_len < MIN_EXTRA {
            snapshot.complete(self.virtual_size());
            let what = format!("snapshot table entry {index} is incomplete");
            survey.fault(what.clone(), format!("Repairing {what}"));
        }
        Ok(Found::Entry {
            snapshot,
            len,
            right_len,
        })
    }

    fn keep_or_drop(&self, survey: &mut Survey, index: u32, snapshot: Snapshot) {
        let entry = SnapshotEntry {
            len: 0,
            extra_len: 0,
            l1_offset: snapshot.l1_offset,
            l1_size: snapshot.l1_size,
        };
        if entry.has_valid_l1(&self.geometry, self.file.storage().len()) {
            survey.kept.push(snapshot);
            return;
        }
        let what = format!(
            "snapshot table entry {index}, whose L1 table at {:#x} is not valid",
            entry.l1_offset
        );
        let repair = format!("Discarding {what}");
        survey.faults.push(Fault {
            what,
            repair,
            count: 1,
            uncountable: true,
        });
    }
}

impl Check<'_> {
    /// Writes a new table where the old one is wrong; whether it was. References have to be counted
    /// anew then.
    pub(super) async fn repair_snapshot_table(&mut self) -> IoResult<bool> {
        let survey = self.image.survey_snapshots().await?;
        if survey.faults.is_empty() {
            return Ok(false);
        }
        self.write_snapshot_table(&survey).await?;
        for fault in survey.faults {
            self.report.corruptions_fixed += fault.count;
            self.report.line(fault.repair);
        }
        Ok(true)
    }

    async fn write_snapshot_table(&mut self, survey: &Survey) -> IoResult<()> {
        let image = self.image;
        let g = &image.geometry;
        let mut bytes: Vec<u8> = survey.kept.iter().flat_map(Snapshot::to_bytes).collect();
        let mut header = image.file.header();
        let old = HostRun {
            first: g.host_cluster(header.snapshots_offset),
            count: g.clusters_for(survey.len.min(image.file.storage().len())),
        };
        header.snapshots = u32::try_from(survey.kept.len()).expect("MAX_SNAPSHOTS at most");
        header.snapshots_offset = 0;
        if !bytes.is_empty() {
            let new = HostRun {
                first: HostCluster(g.clusters_for(image.file.storage().len())),
                count: g.clusters_for(bytes.len() as u64),
            };
            bytes.resize(to_usize(new.count * g.cluster_size()), 0);
            header.snapshots_offset = g.host_offset(new.first);
            image
                .file
                .storage()
                .write_vec(header.snapshots_offset, bytes)
                .await?;
            self.change_refcounts(new, 0, 1).await?;
        }
        image.file.storage().flush().await?;
        image.file.repair_header(header).await?;
        self.change_refcounts(old, 1, 0).await
    }

    /// Changes the refcounts of a run in their blocks. Where they are not what they should be the
    /// rest of the repair sees to them.
    async fn change_refcounts(&mut self, run: HostRun, from: u64, to: u64) -> IoResult<()> {
        let g = self.image.geometry;
        for cluster in run.first.0..run.end().0 {
            let index = to_usize(cluster / g.refcounts_per_block());
            let raw = self.image.space.refcount_table_entry(index);
            let Some(found) = self.block(raw).await else {
                continue;
            };
            let n = to_usize(cluster % g.refcounts_per_block());
            if width::get(&found, g.refcount_order, n) == from {
                let mut block = found.clone();
                width::set(&mut block, g.refcount_order, n, to);
                self.write_changed_bytes(raw, &found, &block).await?;
            }
        }
        Ok(())
    }
}
