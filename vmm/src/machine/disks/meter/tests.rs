use strata_exec::mem::SgList;
use strata_storage::error::IoError;

use super::*;

/// A disk whose requests end when the test says so.
#[derive(Default)]
struct Slow {
    waiting: RefCell<Vec<Done>>,
}

impl Submit for Slow {
    fn submit(&self, _: Request, done: Done) {
        self.waiting.borrow_mut().push(done);
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(DiskInfo {
            id: "virtio0".to_owned(),
            size: 1 << 20,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
            discard: true,
            discard_granularity: 512,
            serial: String::new(),
        })
    }
}

fn request(op: Op, len: u64) -> Request {
    let bytes = match op {
        Op::Read | Op::Write { .. } => len as usize,
        _ => 0,
    };
    Request {
        op,
        offset: 0,
        len,
        data: SgList::zeroed(bytes),
    }
}

#[test]
fn requests_are_counted_by_kind_and_those_under_way_are_seen() {
    let slow = Rc::new(Slow::default());
    let meter = Meter::new("virtio0".to_owned());
    let disk = Disk::new(Rc::new(Metered {
        disk: Disk::new(slow.clone()),
        meter: meter.clone(),
    }));
    assert_eq!(meter.first(), None);
    let write = Op::Write { fua: false };
    let discard = Op::WriteZeroes { unmap: true };
    for (op, len) in [
        (Op::Read, 4096),
        (write, 512),
        (Op::Flush, 0),
        (discard, 1024),
        (Op::Read, 512),
    ] {
        disk.submit(request(op, len), |_| {});
    }
    assert!(meter.first().is_some());
    let report = meter.report(Instant::now() + Duration::from_secs(60));
    assert_eq!((report.in_flight, report.reads.requests), (5, 0));
    assert!(report.oldest_seconds.is_some_and(|seconds| seconds >= 60.0));
    let waiting = slow.waiting.take();
    for (number, done) in waiting.into_iter().enumerate() {
        done(if number == 4 {
            Err(IoError::Cancelled)
        } else {
            Ok(())
        });
    }
    let report = meter.report(Instant::now());
    let counts = |kind: &KindReport| (kind.requests, kind.bytes);
    assert_eq!(counts(&report.reads), (1, 4096));
    assert_eq!(counts(&report.writes), (1, 512));
    assert_eq!(counts(&report.flushes), (1, 0));
    assert_eq!(counts(&report.discards), (1, 1024));
    assert_eq!(
        (report.failed, report.in_flight, report.oldest_seconds),
        (1, 0, None)
    );
    assert_eq!(report.id, "virtio0");
}
