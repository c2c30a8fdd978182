//! Checks the disks against the history: what must be there, and what may be.
//!
//! For a unit, let R be the last run with an acknowledged write to it. The unit must hold R's last
//! acknowledged write, or a write that was under way or done but not yet acknowledged when R or
//! a later run ended. Without any acknowledged write it may also still be zeros.

use crate::disk::Disk;
use crate::params::{Params, Run};
use crate::report::{Failure, Serial};
use crate::stream::{self, LANES_PER_DISK, Lane, MAX_UNITS, Op, Span};
use crate::unit::{Content, Stamp, Unit};
use std::thread;

#[cfg(test)]
mod tests;

/// What every unit of a disk holds; `None` is zeros.
pub type Baseline = Vec<Option<Stamp>>;

/// A write of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acknowledged {
    /// Index of the run in the history.
    run: usize,
    op: u32,
}

/// How many units were found in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    acknowledged: u64,
    newer: u64,
    never: u64,
}

/// `strata.mode=verify`.
pub fn run(serial: &Serial, params: &Params) -> Result<(), Failure> {
    let disks = Disk::open_all(&params.disks)?;
    check_all(serial, &disks, &params.history)?;
    serial.line("STRATA pass");
    Ok(())
}

/// Checks all disks at the same time and returns what they hold.
pub fn check_all(
    serial: &Serial,
    disks: &[Disk],
    history: &[Run],
) -> Result<Vec<Baseline>, Failure> {
    let lanes = disks.len() * LANES_PER_DISK as usize;
    if let Some(run) = history.iter().find(|run| run.flushed.len() != lanes) {
        let message = format!(
            "run {} of the history does not have {lanes} lanes",
            run.seed
        );
        return Err(Failure::Setup(message));
    }
    serial.line(&format!("STRATA verifying runs={}", history.len()));
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = disks
            .iter()
            .map(|disk| scope.spawn(|| check_disk(disk, history)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a panic powers off"))
            .collect()
    });
    let mut total = Counts::default();
    let mut baselines = Vec::new();
    for result in results {
        let (baseline, counts) = result?;
        total.acknowledged += counts.acknowledged;
        total.newer += counts.newer;
        total.never += counts.never;
        baselines.push(baseline);
    }
    let Counts {
        acknowledged,
        newer,
        never,
    } = total;
    serial.line(&format!(
        "STRATA verified acknowledged={acknowledged} newer={newer} never={never}"
    ));
    Ok(baselines)
}

fn check_disk(disk: &Disk, history: &[Run]) -> Result<(Baseline, Counts), Failure> {
    let lanes: Vec<Lane> = disk.lanes().collect();
    let required = required(&lanes, disk.units, history);
    let mut buffer = Unit::zeroed(MAX_UNITS as usize);
    let mut baseline = Vec::with_capacity(disk.units as usize);
    let mut counts = Counts::default();
    let mut first = 0;
    while first < disk.units {
        let span = Span {
            first,
            count: MAX_UNITS.min(disk.units - first),
        };
        disk.read(span, &mut buffer)?;
        for (unit, data) in span.units().zip(&buffer) {
            let content = data.identify();
            let wanted = required[unit as usize];
            let place = Place {
                lane: lanes[stream::lane_of(unit) as usize],
                unit,
            };
            let Some(count) = judge(place, content, wanted, history, &mut counts) else {
                return Err(Failure::Content {
                    disk: disk.name.clone(),
                    unit,
                    expected: describe(wanted, history),
                    found: content.to_string(),
                });
            };
            *count += 1;
            baseline.push(if let Content::Intact(stamp) = content {
                Some(stamp)
            } else {
                None
            });
        }
        first += span.count;
    }
    Ok((baseline, counts))
}

/// For every unit, the last acknowledged write to it.
fn required(lanes: &[Lane], units: u32, history: &[Run]) -> Vec<Option<Acknowledged>> {
    let mut required = vec![None; units as usize];
    for (run, entry) in history.iter().enumerate() {
        for lane in lanes {
            for op in 0..entry.flushed[flushed_index(*lane)] {
                if let Op::Write(span) = lane.op(entry.seed, op) {
                    let range = span.first as usize..(span.first + span.count) as usize;
                    required[range].fill(Some(Acknowledged { run, op }));
                }
            }
        }
    }
    required
}

fn flushed_index(lane: Lane) -> usize {
    (lane.disk * LANES_PER_DISK + lane.number) as usize
}

#[derive(Clone, Copy)]
struct Place {
    lane: Lane,
    unit: u32,
}

/// The counter that a unit with this content belongs in; `None` if the content is wrong.
fn judge<'a>(
    place: Place,
    content: Content,
    wanted: Option<Acknowledged>,
    history: &[Run],
    counts: &'a mut Counts,
) -> Option<&'a mut u64> {
    match (content, wanted) {
        (Content::Zeros, None) => Some(&mut counts.never),
        (Content::Intact(stamp), wanted) => {
            let run = history.iter().position(|run| run.seed == stamp.seed)?;
            if wanted.is_some_and(|w| stamp == w.stamp(place, history)) {
                return Some(&mut counts.acknowledged);
            }
            let is_late_enough = wanted.is_none_or(|w| run >= w.run);
            let is_unacknowledged = stamp.op >= history[run].flushed[flushed_index(place.lane)];
            let is_in_place =
                (stamp.disk, stamp.unit) == (place.lane.disk, place.unit) && place.wrote(stamp);
            (is_late_enough && is_unacknowledged && is_in_place).then_some(&mut counts.newer)
        }
        _ => None,
    }
}

impl Place {
    /// Whether the operation that the stamp names is a write that covers this unit.
    fn wrote(self, stamp: Stamp) -> bool {
        let op = self.lane.op(stamp.seed, stamp.op);
        matches!(op, Op::Write(span) if span.units().contains(&self.unit))
    }
}

impl Acknowledged {
    fn stamp(self, place: Place, history: &[Run]) -> Stamp {
        let seed = history[self.run].seed;
        Stamp {
            seed,
            disk: place.lane.disk,
            unit: place.unit,
            op: self.op,
        }
    }
}

fn describe(wanted: Option<Acknowledged>, history: &[Run]) -> String {
    match wanted {
        Some(w) => format!("run {} op {} or newer", history[w.run].seed, w.op),
        None => "zeros, or a write not yet acknowledged".to_owned(),
    }
}
