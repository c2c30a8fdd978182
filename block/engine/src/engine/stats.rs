//! `query-blockstats`, and the histograms in it.

use strata_exec::histogram::Histogram;
use strata_graph::{Accounting, Backend};

use super::{Engine, refused};
use crate::api::{
    BlockDeviceStats, BlockLatencyHistogramSet, BlockStats, CmdError, DriveName, LatencyHistogram,
};

impl Engine {
    /// `query-blockstats`: of the drives that `query-block` shows.
    pub(super) fn query_blockstats(&self) -> Vec<BlockStats> {
        let job_hold = shown(&self.exec.job_polls());
        let stats = |backend: &Backend| {
            let disk = backend.disk();
            let stats = disk.as_ref().map(|disk| device_stats(disk.accounting()));
            let device = backend.device();
            BlockStats {
                device: backend.options().id.clone(),
                qdev: (!device.is_empty()).then_some(device),
                node_name: disk.map(|disk| disk.root().name().to_owned()),
                stats: BlockDeviceStats {
                    account_invalid: true,
                    account_failed: true,
                    job_hold: job_hold.clone(),
                    ..stats.unwrap_or_default()
                },
            }
        };
        let backends = self.backends.borrow();
        let stats = backends.iter().map(|backend| stats(backend));
        stats
            .filter(|stats| !stats.device.is_empty() || stats.qdev.is_some())
            .collect()
    }

    /// `block-latency-histogram-set`: new histograms, empty ones, for the kinds that boundaries are
    /// given for; or none at all.
    pub(super) fn set_latency_histograms(
        &self,
        cmd: &BlockLatencyHistogramSet,
    ) -> Result<(), CmdError> {
        let backend = self.find_drive(&DriveName::Id(cmd.id.clone()))?;
        let Some(disk) = backend.disk() else {
            return Err(refused(format!("Device '{}' has no medium", cmd.id)));
        };
        let accounting = disk.accounting();
        let kinds = [
            ("read", &cmd.boundaries_read, accounting.reads()),
            ("write", &cmd.boundaries_write, accounting.writes()),
            ("flush", &cmd.boundaries_flush, accounting.flushes()),
        ];
        let asked = kinds.map(|(_, own, _)| own.as_ref().or(cmd.boundaries.as_ref()));
        if asked.iter().all(Option::is_none) {
            kinds
                .iter()
                .for_each(|(_, _, kind)| kind.set_histogram(None));
            return Ok(());
        }
        for ((name, _, kind), boundaries) in kinds.into_iter().zip(asked) {
            let Some(boundaries) = boundaries else {
                continue;
            };
            let histogram = Histogram::new(boundaries.clone()).ok_or_else(|| {
                refused(format!("Device '{}' set {name} boundaries fail", cmd.id))
            })?;
            kind.set_histogram(Some(histogram));
        }
        Ok(())
    }
}

fn device_stats(accounting: &Accounting) -> BlockDeviceStats {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let kinds = [
        accounting.reads(),
        accounting.writes(),
        accounting.flushes(),
        accounting.discards(),
    ];
    let [rd, wr, flush, unmap] = kinds.map(|kind| kind.counts());
    let [
        rd_latency_histogram,
        wr_latency_histogram,
        flush_latency_histogram,
        _,
    ] = kinds.map(|kind| kind.histogram().as_ref().map(shown));
    BlockDeviceStats {
        rd_bytes: rd.bytes,
        wr_bytes: wr.bytes,
        unmap_bytes: unmap.bytes,
        rd_operations: rd.operations,
        wr_operations: wr.operations,
        flush_operations: flush.operations,
        unmap_operations: unmap.operations,
        rd_total_time_ns: nanos(rd.time),
        wr_total_time_ns: nanos(wr.time),
        flush_total_time_ns: nanos(flush.time),
        unmap_total_time_ns: nanos(unmap.time),
        wr_highest_offset: accounting.highest_write(),
        idle_time_ns: accounting.idle().map(nanos),
        failed_rd_operations: rd.failed,
        failed_wr_operations: wr.failed,
        failed_flush_operations: flush.failed,
        failed_unmap_operations: unmap.failed,
        rd_latency_histogram,
        wr_latency_histogram,
        flush_latency_histogram,
        ..BlockDeviceStats::default()
    }
}

fn shown(histogram: &Histogram) -> LatencyHistogram {
    LatencyHistogram {
        boundaries: histogram.boundaries().to_vec(),
        bins: histogram.bins().to_vec(),
    }
}
