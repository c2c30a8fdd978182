//! `strata.mode=write`: all lanes at work, and the reporter beside them.

use crate::button;
use crate::disk::Disk;
use crate::lane::{Gauge, KINDS, Worker};
use crate::params::Params;
use crate::report::{Failure, Serial};
use crate::stream::{LANES_PER_DISK, Lane};
use crate::verify;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How soon after a flush it is reported at the latest.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// `flushed` intervals between two `io` lines.
const IO_EVERY: u32 = 10;

/// Verifies what earlier runs left, then writes, reads and flushes.
pub fn run(serial: &Serial, params: &Params) -> Result<(), Failure> {
    let disks = Disk::open_all(&params.disks)?;
    let baselines = verify::check_all(serial, &disks, &params.history)?;
    let stop = Arc::new(AtomicBool::new(false));
    let watched = button::watch(&stop);
    let places: Vec<(&Disk, Lane)> = disks
        .iter()
        .flat_map(|disk| disk.lanes().map(move |lane| (disk, lane)))
        .collect();
    let gauges: Vec<Gauge> = places.iter().map(|_| Gauge::default()).collect();
    let start = Instant::now();
    serial.line(&format!(
        "STRATA ready seed={} button={watched}",
        params.seed
    ));

    let operations = thread::scope(|scope| {
        let mut workers = Vec::new();
        for (&(disk, lane), gauge) in places.iter().zip(&gauges) {
            let (seed, baseline) = (params.seed, &baselines[disk.index as usize][..]);
            let worker = Worker {
                disk,
                lane,
                seed,
                baseline,
                start,
                gauge,
                stop: &stop,
            };
            workers.push(scope.spawn(move || worker.run()));
        }
        let reporter = Reporter {
            serial,
            disks: &disks,
            gauges: &gauges,
            start,
        };
        reporter.watch(workers, params.seconds, &stop)
    })?;
    serial.line(&format!("STRATA end operations={operations}"));
    serial.line("STRATA pass");
    Ok(())
}

type WorkerHandle<'a> = ScopedJoinHandle<'a, Result<u32, Failure>>;

struct Reporter<'a> {
    serial: &'a Serial,
    disks: &'a [Disk],
    gauges: &'a [Gauge],
    start: Instant,
}

impl Reporter<'_> {
    /// Reports until all lanes have ended. The first failure is reported at once and ends the run
    /// without waiting for the others, which may hang for the same reason.
    fn watch(
        &self,
        mut workers: Vec<WorkerHandle<'_>>,
        limit: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<u64, Failure> {
        let mut reported = vec![0; self.gauges.len()];
        let mut operations = 0;
        let mut round = 0;
        while !workers.is_empty() {
            thread::sleep(FLUSH_INTERVAL);
            if limit.is_some_and(|limit| self.start.elapsed() >= limit) {
                stop.store(true, Ordering::Relaxed);
            }
            let (ended, running): (Vec<_>, Vec<_>) =
                workers.into_iter().partition(ScopedJoinHandle::is_finished);
            workers = running;
            for worker in ended {
                match worker.join().expect("a panic powers off") {
                    Ok(count) => operations += u64::from(count),
                    Err(failure) => self.fail(&failure),
                }
            }
            self.report_flushes(&mut reported);
            round += 1;
            if round % IO_EVERY == 0 {
                self.report_io();
            }
        }
        Ok(operations)
    }

    fn fail(&self, failure: &Failure) -> ! {
        self.serial.line(&failure.to_string());
        self.serial.drain();
        crate::boot::power_off()
    }

    fn report_flushes(&self, reported: &mut Vec<u32>) {
        let load = |gauge: &Gauge| gauge.flushed.load(Ordering::Acquire);
        let flushed: Vec<u32> = self.gauges.iter().map(load).collect();
        if flushed != *reported {
            let words: Vec<String> = flushed.iter().map(u32::to_string).collect();
            self.serial
                .line(&format!("STRATA flushed {}", words.join(",")));
            *reported = flushed;
        }
    }

    fn report_io(&self) {
        let mut line = format!("STRATA io t={:.1}", self.start.elapsed().as_secs_f64());
        for (disk, lanes) in self
            .disks
            .iter()
            .zip(self.gauges.chunks(LANES_PER_DISK as usize))
        {
            let mut longest = [0; KINDS];
            let mut requests = 0;
            for gauge in lanes {
                for (most, this) in longest.iter_mut().zip(gauge.take_longest(self.start)) {
                    *most = this.max(*most);
                }
                requests += gauge.requests.swap(0, Ordering::Relaxed);
            }
            let [read, write, flush] = longest;
            line += &format!(" {}={read}/{write}/{flush}/{requests}", disk.name);
        }
        self.serial.line(&line);
    }
}
