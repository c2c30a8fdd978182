//! The worker half: carries out the channels' jobs on the device thread.

use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_block::disk::{Completion, Disk, Op, Request};
use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoError;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    bus_master::{TableEnd, gather},
    cdrom::BLOCK,
    channel::{Channel, Job, Move, Outcome, Payload, Reply, Work},
    drive::SECTOR,
    lock,
};

mod tray;
mod trim;

/// What becomes the worker, on its way to the device thread.
pub struct IdeWorkerParts {
    pub(super) channels: [Arc<Mutex<Channel>>; 2],
    pub(super) doorbell: EventFd,
    pub(super) memory: Arc<GuestMemoryMmap>,
}

impl IdeWorkerParts {
    /// The worker, on the thread that owns `disks`: primary master and slave, then secondary, in
    /// the order of the descriptions that the controller was made from.
    pub fn into_worker(self, disks: [Option<Disk>; 4]) -> IdeWorker {
        let [a, b, c, d] = disks;
        let [first, second] = self.channels;
        let side = |channel, disks| Side { channel, disks };
        IdeWorker {
            sides: [side(first, [a, b]), side(second, [c, d])],
            doorbell: self.doorbell,
            memory: self.memory,
            stopped: false,
            trays: None,
        }
    }
}

/// A channel and the disks behind it.
struct Side {
    channel: Arc<Mutex<Channel>>,
    disks: [Option<Disk>; 2],
}

/// The worker. It is idle when no request is in flight; a job that waits is none yet.
pub struct IdeWorker {
    sides: [Side; 2],
    doorbell: EventFd,
    memory: Arc<GuestMemoryMmap>,
    stopped: bool,
    /// Where it is reported that the guest has moved a tray.
    trays: Option<TraySink>,
}

/// Called with a drive's place, 0 to 3, and whether its tray is open now.
pub type TraySink = Box<dyn Fn(usize, bool)>;

impl IdeWorker {
    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        let busy = |side: &&Side| lock(&side.channel).in_flight();
        self.sides.iter().filter(busy).count()
    }

    /// A disk has another size now. The guest finds it when it looks for drives again, having let
    /// go of this one; no interrupt reports it.
    pub fn resized(&self) {
        for side in &self.sides {
            let sizes = side
                .disks
                .each_ref()
                .map(|disk| disk.as_ref().map(|disk| disk.info().size / SECTOR));
            lock(&side.channel).set_sectors(sizes);
        }
    }

    /// Whether no request is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight() == 0
    }

    /// Starts nothing from now on. What is in flight ends; what the guest asks for is kept.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Starts what has been kept, and goes on.
    pub fn cont(&mut self) {
        self.stopped = false;
        self.poll();
    }

    fn poll(&mut self) {
        self.report_trays();
        if self.stopped {
            return;
        }
        for side in &self.sides {
            let job = lock(&side.channel).take_job();
            if let Some(job) = job {
                side.start(job, &self.memory);
            }
        }
    }
}

impl Side {
    fn start(&self, job: Job, memory: &Arc<GuestMemoryMmap>) {
        let end = Ending(Arc::clone(&self.channel));
        let Some(disk) = &self.disks[job.drive] else {
            // The machine has built a drive without a disk behind it.
            end.finish(Err(IoError::OutOfRange));
            return;
        };
        match job.work {
            Work::Read { sector, count } => {
                let data = SgList::zeroed(count as usize * to_usize(SECTOR));
                let request = transfer(Op::Read, sector, data.clone());
                disk.submit(request, move |done| {
                    end.finish_with(done, Reply::Data(data));
                });
            }
            Work::Write { sector, data, fua } => {
                let request = transfer(Op::Write { fua }, sector, data);
                disk.submit(request, move |done| end.finish_with(done, Reply::Done));
            }
            Work::Flush => {
                let request = transfer(Op::Flush, 0, SgList::empty());
                disk.submit(request, move |done| end.finish_with(done, Reply::Done));
            }
            Work::Dma(what) => start_dma(disk, &what, memory, end),
            Work::Trim { blocks, table } => start_trim(disk, blocks, table, memory, end),
            Work::ReadDisc { first, count } => {
                let data = SgList::zeroed(count as usize * to_usize(BLOCK));
                read_disc(disk, first, data.clone(), end, Reply::Data(data));
            }
            Work::PacketDma { payload, table } => {
                start_packet_dma(disk, payload, table, memory, end);
            }
        }
    }
}

/// Moves as many whole sectors as the descriptor table has room for.
fn start_dma(disk: &Disk, what: &Move, memory: &Arc<GuestMemoryMmap>, end: Ending) {
    let regions = gather(memory, what.table, u64::from(what.count) * SECTOR);
    let sectors = regions.list.len() / to_usize(SECTOR);
    let moved = Reply::Moved {
        sectors: u32::try_from(sectors).expect("no more than were asked for"),
        end: regions.end,
    };
    if sectors == 0 {
        end.finish(Ok(moved));
        return;
    }
    let list = regions.list.slice(0, sectors * to_usize(SECTOR));
    let request = transfer(what.op, what.sector, list);
    disk.submit(request, move |done| end.finish_with(done, moved));
}

/// Discards the ranges listed in guest memory. Half a list is none: then nothing has moved.
fn start_trim(disk: &Disk, blocks: u32, table: u32, memory: &Arc<GuestMemoryMmap>, end: Ending) {
    let regions = gather(memory, table, u64::from(blocks) * SECTOR);
    let moved = |sectors| Reply::Moved {
        sectors,
        end: regions.end,
    };
    match regions.end {
        TableEnd::Exact | TableEnd::More => {
            let moved = moved(blocks);
            // The one copy; the guest may change its memory afterwards.
            let list = regions.list.to_vec();
            trim::run(disk, &list, move |done| end.finish_with(done, moved));
        }
        TableEnd::Short | TableEnd::Fault => end.finish(Ok(moved(0))),
    }
}

/// Moves a packet command's reply, all of it or nothing.
fn start_packet_dma(
    disk: &Disk,
    payload: Payload,
    table: u32,
    memory: &Arc<GuestMemoryMmap>,
    end: Ending,
) {
    let len = match &payload {
        Payload::Bytes(bytes) => bytes.len() as u64,
        Payload::Disc { count, .. } => u64::from(*count) * BLOCK,
    };
    let regions = gather(memory, table, len);
    let moved = Reply::Moved {
        sectors: 0,
        end: regions.end,
    };
    match (regions.end, payload) {
        (TableEnd::Short | TableEnd::Fault, _) => end.finish(Ok(moved)),
        (_, Payload::Bytes(bytes)) => {
            regions.list.copy_from(0, &bytes);
            end.finish(Ok(moved));
        }
        (_, Payload::Disc { first, .. }) => read_disc(disk, first, regions.list, end, moved),
    }
}

/// Reads blocks of a disc into `data`. The last block may be there in part; the rest of it is
/// zeros.
fn read_disc(disk: &Disk, first: u32, data: SgList, end: Ending, reply: Reply) {
    let offset = u64::from(first) * BLOCK;
    let there = disk.info().size.saturating_sub(offset);
    let there = to_usize(there).min(data.len());
    if there == 0 {
        // The disc has shrunk meanwhile.
        end.finish(Err(IoError::OutOfRange));
        return;
    }
    data.fill(there, data.len() - there, 0);
    let request = transfer(Op::Read, offset / SECTOR, data.slice(0, there));
    disk.submit(request, move |done| end.finish_with(done, reply));
}

fn transfer(op: Op, sector: u64, data: SgList) -> Request {
    Request {
        op,
        offset: sector * SECTOR,
        len: data.len() as u64,
        data,
    }
}

/// Where a job's end is reported.
struct Ending(Arc<Mutex<Channel>>);

impl Ending {
    fn finish(self, outcome: Outcome) {
        lock(&self.0).finish(outcome);
    }

    fn finish_with(self, done: Completion, reply: Reply) {
        self.finish(done.map(|()| reply));
    }
}

impl MutEventSubscriber for IdeWorker {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.doorbell.read();
        self.poll();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let events = Events::new(&self.doorbell, EventSet::IN);
        if let Err(error) = ops.add(events) {
            tracing::error!(?error, "the IDE worker cannot be woken");
        }
    }
}
