//! The rows of the table.

use crate::Bench;
use crate::chain::{Chain, Shape, verify, verify_raw};
use crate::model::{BLOCK, CLUSTER, Content, Model};
use crate::nbd::{self, Load, Sample};
use crate::report::{Line, Measure, Plot};
use crate::side::{Server, Side, prepare_cache, sync, touch_memory};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use strata_tests::error::{Context, Outcome, ensure};
use strata_tests::image::{Tool, text};

/// One row.
pub struct Row {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is measured.
    pub about: &'static str,
    /// Measures it.
    pub run: fn(&mut Bench) -> Outcome<Vec<Measure>>,
}

/// All rows, in the order in which they are measured.
pub const ROWS: &[Row] = &[
    Row {
        name: "flatten-warm",
        about: "merge A (512 MiB) B C D (128 MiB each), single clusters, warm, until durable",
        run: |bench| flatten(bench, 1, false),
    },
    Row {
        name: "flatten-warm-runs",
        about: "the same, runs of 1 MiB",
        run: |bench| flatten(bench, 16, false),
    },
    Row {
        name: "flatten-direct",
        about: "the same, cache=none, single clusters",
        run: |bench| flatten(bench, 1, true),
    },
    Row {
        name: "flatten-direct-runs",
        about: "the same, cache=none, runs of 1 MiB",
        run: |bench| flatten(bench, 16, true),
    },
    Row {
        name: "load-read-qd1",
        about: "4k reads over NBD, depth 1, before and during that merge, warm",
        run: |bench| load(bench, 1, 0, false),
    },
    Row {
        name: "load-mixed-qd1",
        about: "the same, 70 % reads and 30 % writes",
        run: |bench| load(bench, 1, 30, false),
    },
    Row {
        name: "load-read-qd32",
        about: "the same, reads, depth 32",
        run: |bench| load(bench, 32, 0, false),
    },
    Row {
        name: "load-read-qd1-direct",
        about: "4k reads over NBD, depth 1, before and during that merge, cache=none",
        run: |bench| load(bench, 1, 0, true),
    },
    Row {
        name: "load-mixed-qd1-direct",
        about: "the same, 70 % reads and 30 % writes",
        run: |bench| load(bench, 1, 30, true),
    },
    Row {
        name: "load-read-qd32-direct",
        about: "the same, reads, depth 32",
        run: |bench| load(bench, 32, 0, true),
    },
    Row {
        name: "depth",
        about: "4k reads in process, warm, depth 1, of chains of 1 to 200 layers",
        run: depth,
    },
    Row {
        name: "open-500",
        about: "a chain of 500: from the start of the server to the first block over NBD",
        run: open,
    },
    Row {
        name: "write-new",
        about: "8192 writes of 4k that allocate, depth 16, until durable, the program's start included",
        run: |bench| write(bench, false),
    },
    Row {
        name: "write-cow",
        about: "the same, each copies a cluster up from a base",
        run: |bench| write(bench, true),
    },
    Row {
        name: "convert-qcow2",
        about: "convert a chain of 8 layers (512 MiB) to qcow2, until durable",
        run: |bench| convert(bench, "qcow2", false),
    },
    Row {
        name: "convert-raw",
        about: "the same, to raw",
        run: |bench| convert(bench, "raw", false),
    },
    Row {
        name: "convert-compressed",
        about: "the same, to qcow2 with compressed clusters",
        run: |bench| convert(bench, "qcow2", true),
    },
];

const MIB: u64 = 1 << 20;

fn four_layers(bench: &Bench, run: u64) -> Outcome<Chain> {
    let layers = [512, 128, 128, 128].map(|mib| mib * MIB / CLUSTER).to_vec();
    let size = 1024 * MIB;
    Chain::build(&bench.directory, &Shape { size, layers, run })
}

/// A copy of the chain's top, all files in the page cache or out of it.
fn fresh_top(chain: &Chain, direct: bool) -> Outcome<PathBuf> {
    let top = chain.copy_of_top("top.qcow2")?;
    let mut files = chain.files.clone();
    files.push(top.clone());
    prepare_cache(&files, direct)?;
    touch_memory(usize::try_from(chain.shape.size).context("size")?);
    Ok(top)
}

/// What a merge made: right in every byte, without an error, alone.
fn check_flat(top: &Path, model: &Model) -> Outcome<()> {
    Tool::QemuImg.check(top)?;
    let chain = Tool::QemuImg.chain(top)?;
    ensure(chain.len() == 1, || "layers are left".to_owned())?;
    verify(top, model)
}

fn flatten(bench: &mut Bench, run: u64, direct: bool) -> Outcome<Vec<Measure>> {
    let chain = four_layers(bench, run)?;
    let mib = chain.model.allocated() as f64 / MIB as f64;
    bench.turns(
        [Measure::less("time", "s"), Measure::more("rate", "MiB/s")],
        |side| {
            let top = fresh_top(&chain, direct)?;
            let mut server = Server::start(side, &chain, &top, direct)?;
            let seconds = server.flatten(&top)?;
            server.end()?;
            check_flat(&top, &chain.model)?;
            Ok([seconds, mib / seconds])
        },
    )
}

fn load(bench: &mut Bench, depth: usize, writes: u64, direct: bool) -> Outcome<Vec<Measure>> {
    let chain = four_layers(bench, 1)?;
    let mut lines = [None, None];
    let measures = [
        Measure::more("IOPS before", "1/s"),
        Measure::more("IOPS kept", "during / before"),
        Measure::less("p99 before", "us"),
        Measure::less("p99 growth", "during / before"),
        Measure::less("longest during", "ms"),
        Measure::more("merge rate", "MiB/s"),
    ];
    let measures = bench.turns(measures, |side| {
        let top = fresh_top(&chain, direct)?;
        let mut server = Server::start(side, &chain, &top, direct)?;
        let (stop, clock) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let (socket, stopped) = (server.socket.clone(), Arc::clone(&stop));
        let what = Load { depth, writes };
        let client = thread::spawn(move || nbd::load(&socket, what, clock, &stopped));
        sleep(Duration::from_millis(1700));
        let begin = clock.elapsed().as_secs_f64();
        let merged = server.flatten(&top);
        let end = clock.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let ended = client.join().ok().context("the client panicked")?;
        let (seconds, (samples, written)) = (merged?, ended?);
        sync(&top)?;
        server.end()?;
        let mut model = chain.model.clone();
        model.write_blocks(&written);
        check_flat(&top, &model)?;
        // The first moments find nothing in any cache.
        let before = Summary::of(&samples, 0.2, begin);
        let during = Summary::of(&samples, begin, end);
        lines[usize::from(side == Side::Qemu)] = Some(Line {
            side,
            points: over_time(&samples),
        });
        Ok([
            before.iops,
            during.iops / before.iops,
            before.p99,
            during.p99 / before.p99,
            during.longest / 1000.0,
            chain.model.allocated() as f64 / MIB as f64 / seconds,
        ])
    })?;
    let kind = if writes > 0 { "70/30" } else { "reads" };
    let cache = if direct { "cache=none" } else { "warm" };
    bench.plots.push(Plot {
        title: format!("p99 over NBD, {kind}, depth {depth}, {cache}; the merge begins at 1.7 s"),
        x: "s",
        y: "p99 of 50 ms, us",
        lines: lines.into_iter().flatten().collect(),
    });
    Ok(measures)
}

struct Summary {
    iops: f64,
    p99: f64,
    /// The longest write; of reads alone the longest read.
    longest: f64,
}

impl Summary {
    fn of(samples: &[Sample], from: f64, to: f64) -> Summary {
        let within = samples
            .iter()
            .filter(|sample| (from..to).contains(&sample.at));
        let writes = within.clone().filter(|sample| sample.is_write);
        let longest = writes.map(|sample| sample.micros).fold(0.0, f64::max);
        let mut micros: Vec<f64> = within.map(|sample| sample.micros).collect();
        micros.sort_by(f64::total_cmp);
        Summary {
            iops: micros.len() as f64 / (to - from),
            p99: percentile(&micros, 99),
            longest: if longest > 0.0 {
                longest
            } else {
                percentile(&micros, 100)
            },
        }
    }
}

/// Of values in order; not a number where there is none.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let index = values.len().saturating_sub(1) * percent / 100;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// The 99th percentile of each 50 ms.
fn over_time(samples: &[Sample]) -> Vec<(f64, f64)> {
    let end = samples.last().map_or(0.0, |sample| sample.at);
    let windows = (0u32..).map(|window| f64::from(window) * 0.05);
    let windows = windows.take_while(|&begin| begin < end);
    windows
        .map(|begin| (begin, Summary::of(samples, begin, begin + 0.05).p99))
        .filter(|point| point.1.is_finite())
        .collect()
}

/// Has a tool copy what an image shows into a plain file, and compares every byte of that.
fn verify_by(tool: Tool, image: &Path, model: &Model) -> Outcome<()> {
    let raw = image.with_file_name("raw");
    let names = [text(image)?, text(&raw)?];
    tool.run(&["convert", "-f", "qcow2", "-O", "raw", names[0], names[1]])?;
    verify_raw(&raw, model)?;
    fs::remove_file(&raw).context(raw.display())
}

/// Layers that hold little, above a base that is full.
fn deep(bench: &Bench, count: usize, mib: u64) -> Outcome<Chain> {
    let mut layers = vec![mib * MIB / CLUSTER];
    layers.resize(count, 8);
    let (size, run) = (mib * MIB, 1);
    let directory = bench.directory.join(count.to_string());
    Chain::build(&directory, &Shape { size, layers, run })
}

fn depth(bench: &mut Bench) -> Outcome<Vec<Measure>> {
    const DEPTHS: [usize; 5] = [1, 8, 32, 100, 200];
    let chains = DEPTHS.map(|count| deep(bench, count, 256));
    let chains = chains.into_iter().collect::<Outcome<Vec<Chain>>>()?;
    for chain in &chains {
        // What both read is what has to be there.
        for tool in Tool::ALL {
            verify_by(tool, chain.top(), &chain.model)?;
        }
    }
    let names = [
        "IOPS, 1 layer",
        "8 layers",
        "32 layers",
        "100 layers",
        "200 layers",
    ];
    let measures = bench.turns(names.map(|name| Measure::more(name, "1/s")), |side| {
        let mut iops = [0.0; DEPTHS.len()];
        for (value, chain) in iops.iter_mut().zip(&chains) {
            // A step that meets all clusters, each somewhere else than the last.
            let mut arguments = vec!["bench", "-f", "qcow2", "-d", "1", "-S", "1118208"];
            arguments.extend(["-c", "40000", "-t", "writeback", "-i"]);
            arguments.extend(["io_uring", text(chain.top())?]);
            let said = side.tool().run(&arguments)?;
            let seconds = said
                .split("completed in ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let seconds = seconds.and_then(|seconds| seconds.parse::<f64>().ok());
            *value = 40000.0 / seconds.context(format!("no seconds in: {said}"))?;
        }
        Ok(iops)
    })?;
    let lines = [Side::Strata, Side::Qemu].map(|side| {
        let points = DEPTHS
            .iter()
            .zip(&measures)
            .map(|(&depth, measure)| (depth as f64, measure.median(side)));
        Line {
            side,
            points: points.collect(),
        }
    });
    bench.plots.push(Plot {
        title: "4k reads in process, warm, depth 1".to_owned(),
        x: "layers",
        y: "IOPS",
        lines: lines.into(),
    });
    Ok(measures)
}

fn open(bench: &mut Bench) -> Outcome<Vec<Measure>> {
    let chain = deep(bench, 500, 64)?;
    let measures = [Measure::less("time", "s"), Measure::less("memory", "MiB")];
    bench.turns(measures, |side| {
        prepare_cache(&chain.files, false)?;
        let begin = Instant::now();
        let server = Server::start(side, &chain, chain.top(), false)?;
        nbd::read_once(&server.socket)?;
        let seconds = begin.elapsed().as_secs_f64();
        let memory = server.peak_memory()?;
        server.end()?;
        verify(chain.top(), &chain.model)?;
        Ok([seconds, memory])
    })
}

fn write(bench: &mut Bench, copies: bool) -> Outcome<Vec<Measure>> {
    const COUNT: u64 = 8192;
    const BYTE: u8 = 7;
    let clusters = COUNT * 2;
    let shape = Shape {
        size: clusters * CLUSTER,
        layers: if copies { vec![clusters, 0] } else { vec![0] },
        run: 1,
    };
    let chain = Chain::build(&bench.directory, &shape)?;
    let mut model = chain.model.clone();
    for cluster in 0..COUNT {
        model.write_block(cluster * CLUSTER / BLOCK as u64, Content::Byte(BYTE));
    }
    bench.turns([Measure::less("time", "s")], |side| {
        let top = fresh_top(&chain, false)?;
        let (count, byte) = (COUNT.to_string(), BYTE.to_string());
        let mut arguments = vec!["bench", "-w", "-f", "qcow2", "-d", "16", "-S", "65536"];
        arguments.extend(["-c", &count, "--pattern", &byte, "-t", "writeback"]);
        arguments.extend(["-i", "io_uring", text(&top)?]);
        let begin = Instant::now();
        side.tool().run(&arguments)?;
        sync(&top)?;
        let seconds = begin.elapsed().as_secs_f64();
        Tool::QemuImg.check(&top)?;
        verify(&top, &model)?;
        Ok([seconds])
    })
}

fn convert(bench: &mut Bench, format: &str, compress: bool) -> Outcome<Vec<Measure>> {
    let shape = Shape {
        size: 1024 * MIB,
        layers: vec![64 * MIB / CLUSTER; 8],
        run: 4,
    };
    let chain = Chain::build(&bench.directory, &shape)?;
    let result = bench.directory.join("result");
    bench.turns([Measure::less("time", "s")], |side| {
        prepare_cache(&chain.files, false)?;
        touch_memory(usize::try_from(chain.shape.size).context("size")?);
        // There is none at the first time.
        let _ = fs::remove_file(&result);
        // QEMU refuses both together.
        let way = if compress { "-c" } else { "-W" };
        let names = [text(chain.top())?, text(&result)?];
        let begin = Instant::now();
        let arguments = ["convert", "-f", "qcow2", "-O", format, way, "-m", "16"];
        side.tool().run(&[&arguments[..], &names].concat())?;
        sync(&result)?;
        let seconds = begin.elapsed().as_secs_f64();
        if compress {
            // What is compressed only QEMU unpacks here.
            Tool::QemuImg.check(&result)?;
            verify_by(Tool::QemuImg, &result, &chain.model)?;
        } else if format == "raw" {
            verify_raw(&result, &chain.model)?;
        } else {
            check_flat(&result, &chain.model)?;
        }
        Ok([seconds])
    })
}
