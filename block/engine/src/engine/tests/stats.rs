use strata_exec::mem::SgList;
use strata_graph::{Format, disk::Op};

use super::{Bench, named_spec};
use crate::api::{BlockLatencyHistogramSet, BlockStats, BlockStream, Cmd, QueryBlockstats, Reply};

impl Bench {
    fn stats(&self) -> Vec<BlockStats> {
        match self.command(Cmd::QueryBlockstats(QueryBlockstats::default())) {
            Ok(Reply::Blockstats(stats)) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// Sets histograms; the error's text, or nothing.
    fn set(&self, histograms: BlockLatencyHistogramSet) -> String {
        let answer = self.command(Cmd::BlockLatencyHistogramSet(histograms));
        answer.err().map(|error| error.desc).unwrap_or_default()
    }
}

const PATH: &str = "/machine/peripheral-anon/device[0]/virtio-backend";

fn bench() -> (Bench, strata_graph::disk::Disk) {
    let bench = Bench::new();
    let mut spec = named_spec("virtio0", &bench.create("disk"), "top");
    spec.disk.device = PATH.to_owned();
    let disk = bench.engine.open_disk(spec).unwrap();
    (bench, disk)
}

#[test]
fn requests_are_counted_by_kind_and_end() {
    let (bench, disk) = bench();
    bench.write(&disk, 65536, vec![1; 4096]).unwrap();
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    bench.read(&disk, 0, 1024);
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    let zeroes = Op::WriteZeroes { unmap: false };
    bench.run(&disk, zeroes, 0, 1024, SgList::empty()).unwrap();
    let [of_disk] = bench.stats().try_into().unwrap();
    assert_eq!(
        (&*of_disk.device, of_disk.qdev.as_deref()),
        ("virtio0", Some(PATH))
    );
    assert_eq!(of_disk.node_name.as_deref(), Some("top"));
    let stats = of_disk.stats;
    assert_eq!((stats.rd_operations, stats.rd_bytes), (1, 1024));
    assert_eq!(
        (stats.wr_operations, stats.wr_bytes),
        (3, 4096 + 512 + 1024)
    );
    assert_eq!((stats.flush_operations, stats.unmap_operations), (1, 0));
    assert_eq!(stats.wr_highest_offset, 65536 + 4096);
    assert!(stats.idle_time_ns.is_some() && stats.wr_total_time_ns > 0);
    assert_eq!(
        (stats.failed_rd_operations, stats.rd_latency_histogram),
        (0, None)
    );
}

#[test]
fn what_fails_is_counted_apart() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, [5; 4096]).unwrap();
    let disk = bench.open("d", &path, Some(Format::Raw)).unwrap();
    bench.engine.find_disk("d").unwrap().root().set_read_only();
    assert!(bench.write(&disk, 0, vec![1; 512]).is_err());
    let stats = bench.stats().remove(0).stats;
    assert_eq!((stats.wr_operations, stats.failed_wr_operations), (0, 1));
    assert_eq!((stats.wr_bytes, stats.wr_highest_offset), (0, 0));
}

#[test]
fn histograms_are_set_for_each_kind_and_go() {
    let (bench, disk) = bench();
    let of_all = BlockLatencyHistogramSet {
        id: PATH.to_owned(),
        boundaries: Some(vec![1, u64::MAX]),
        boundaries_write: Some(vec![u64::MAX]),
        ..BlockLatencyHistogramSet::default()
    };
    assert_eq!(bench.set(of_all.clone()), "");
    bench.read(&disk, 0, 512);
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    let stats = bench.stats().remove(0).stats;
    let bins = |of: Option<crate::api::LatencyHistogram>| of.map(|histogram| histogram.bins);
    assert_eq!(bins(stats.rd_latency_histogram), Some(vec![0, 1, 0]));
    assert_eq!(bins(stats.wr_latency_histogram), Some(vec![1, 0]));
    assert_eq!(bins(stats.flush_latency_histogram), Some(vec![0, 0, 0]));
    let wrong = BlockLatencyHistogramSet {
        boundaries: None,
        boundaries_write: None,
        boundaries_flush: Some(vec![5, 5]),
        ..of_all.clone()
    };
    let refused = format!("Device '{PATH}' set flush boundaries fail");
    assert_eq!(bench.set(wrong), refused);
    let nobody = BlockLatencyHistogramSet {
        id: "nobody".to_owned(),
        ..of_all.clone()
    };
    assert!(bench.set(nobody).contains("nobody"));
    let none = BlockLatencyHistogramSet {
        id: of_all.id,
        ..BlockLatencyHistogramSet::default()
    };
    assert_eq!(bench.set(none), "");
    assert_eq!(bench.stats().remove(0).stats.rd_latency_histogram, None);
}

#[test]
fn steps_of_jobs_are_counted_by_how_long_they_held_the_thread() {
    let (bench, _disk) = bench();
    let hold = |bench: &Bench| bench.stats().remove(0).stats.job_hold;
    assert!(hold(&bench).bins.iter().all(|bin| *bin == 0));
    let stream = BlockStream {
        device: "virtio0".to_owned(),
        ..BlockStream::default()
    };
    bench.command(Cmd::BlockStream(stream)).unwrap();
    bench.until(super::live::completed);
    let hold = hold(&bench);
    assert!(hold.bins.iter().sum::<u64>() > 0, "{hold:?}");
    assert_eq!(hold.bins.len(), hold.boundaries.len() + 1);
}

#[test]
fn layers_are_not_counted() {
    let of_nodes = QueryBlockstats {
        query_nodes: Some(true),
    };
    let error = Cmd::QueryBlockstats(of_nodes).check().unwrap_err();
    assert!(error.desc.contains("query-nodes"), "{error}");
}
