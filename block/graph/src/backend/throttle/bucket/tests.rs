//! By a clock of the test's own.

use super::*;

fn limits(set: impl Fn(&mut ThrottleLimits)) -> ThrottleLimits {
    let mut limits = ThrottleLimits::default();
    set(&mut limits);
    limits.check().unwrap();
    limits
}

/// Requests of `bytes` bytes that go this way within `seconds`, each as soon as it may.
fn requests(limits: ThrottleLimits, way: Way, bytes: u64, seconds: f64) -> u64 {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let (mut buckets, mut now, mut count) = (Buckets::new(limits, start), start, 0);
    loop {
        let wait = buckets.wait(way, now);
        if wait.is_zero() {
            buckets.pour(way, bytes);
            count += 1;
            continue;
        }
        // Rounding must not make it wait for nothing again and again.
        now += wait.max(Duration::from_nanos(1));
        if now >= end {
            return count;
        }
    }
}

#[test]
fn without_limits_nothing_waits() {
    let mut buckets = Buckets::new(ThrottleLimits::default(), Instant::now());
    for _ in 0..1000 {
        buckets.pour(Way::Write, 1 << 30);
        assert_eq!(buckets.wait(Way::Write, Instant::now()), Duration::ZERO);
    }
}

#[test]
fn the_average_is_kept_to_and_a_tenth_of_a_second_is_free() {
    let bytes = limits(|limits| limits.bytes.total.average = 1 << 20);
    // 16 a second; 1.6 at first, and the one that fills the bucket over.
    assert_eq!(requests(bytes, Way::Read, 65536, 10.0), 162);
    let iops = limits(|limits| limits.requests.total.average = 100);
    assert_eq!(requests(iops, Way::Write, 4096, 10.0), 1010);
}

#[test]
fn a_request_waits_until_what_is_too_much_has_leaked() {
    let start = Instant::now();
    let bytes = limits(|limits| limits.bytes.write.average = 1000);
    let mut buckets = Buckets::new(bytes, start);
    // However long it is, the first one goes on at once.
    buckets.pour(Way::Write, 5100);
    assert_eq!(buckets.wait(Way::Write, start), Duration::from_secs(5));
    let later = start + Duration::from_secs(2);
    assert_eq!(buckets.wait(Way::Write, later), Duration::from_secs(3));
    assert_eq!(buckets.wait(Way::Read, later), Duration::ZERO);
    // A clock that goes back leaks nothing twice.
    assert_eq!(buckets.wait(Way::Write, start), Duration::from_secs(3));
    let end = start + Duration::from_secs(5);
    assert_eq!(buckets.wait(Way::Write, end), Duration::ZERO);
}

#[test]
fn bursts_last_as_long_as_they_may() {
    let burst = limits(|limits| {
        limits.requests.total = Limit {
            average: 10,
            burst: 100,
            burst_seconds: 1,
        };
    });
    // A second's worth of the burst at once, then the average.
    assert_eq!(requests(burst, Way::Read, 512, 0.05), 101);
    assert_eq!(requests(burst, Way::Read, 512, 10.0), 200);
    let long = limits(|limits| {
        limits.requests.total = Limit {
            average: 10,
            burst: 100,
            burst_seconds: 5,
        };
    });
    // Not all at once any more, but at the rate of the burst: the bucket of 500 leaks 10 a second
    // meanwhile.
    assert_eq!(requests(long, Way::Read, 512, 1.0), 110);
    assert_eq!(requests(long, Way::Read, 512, 4.0), 410);
    assert_eq!(requests(long, Way::Read, 512, 100.0), 1500);
}

#[test]
fn reads_and_writes_have_limits_of_their_own_or_one_together() {
    let start = Instant::now();
    let apart = limits(|limits| {
        limits.requests.read.average = 10;
        limits.bytes.write.average = 1000;
    });
    let mut buckets = Buckets::new(apart, start);
    (0..2).for_each(|_| buckets.pour(Way::Read, 1 << 20));
    assert_eq!(buckets.wait(Way::Read, start), Duration::from_millis(100));
    assert_eq!(buckets.wait(Way::Write, start), Duration::ZERO);
    let together = limits(|limits| limits.requests.total.average = 10);
    let mut buckets = Buckets::new(together, start);
    (0..2).for_each(|_| buckets.pour(Way::Read, 1 << 20));
    assert_eq!(buckets.wait(Way::Write, start), Duration::from_millis(100));
}

#[test]
fn a_long_request_counts_for_several() {
    let start = Instant::now();
    let sized = limits(|limits| {
        limits.requests.total.average = 10;
        limits.request_size = 4096;
    });
    let mut buckets = Buckets::new(sized, start);
    buckets.pour(Way::Read, 512);
    assert_eq!(buckets.wait(Way::Read, start), Duration::ZERO);
    buckets.pour(Way::Read, 6 * 4096);
    assert_eq!(buckets.wait(Way::Read, start), Duration::from_millis(600));
}

#[test]
fn the_smallest_rate_makes_no_wait_that_cannot_be_computed() {
    let slow = limits(|limits| limits.bytes.total.average = 1);
    let start = Instant::now();
    let mut buckets = Buckets::new(slow, start);
    buckets.pour(Way::Read, u64::MAX);
    assert_eq!(buckets.wait(Way::Read, start), DAY);
}

#[test]
fn limits_that_do_not_go_together_are_refused_in_qemus_words() {
    let limit = |average, burst, burst_seconds| Limit {
        average,
        burst,
        burst_seconds,
    };
    for (limit, why) in [
        (
            limit(1_000_000_000_000_001, 0, 1),
            "must be within [0, 1000000000000000]",
        ),
        (
            limit(1, 1_000_000_000_000_001, 1),
            "must be within [0, 1000000000000000]",
        ),
        (limit(1, 1, 0), "the burst length cannot be 0"),
        (limit(1, 0, 2), "burst length set without burst rate"),
        (
            limit(1, 2, 500_000_000_000_001),
            "burst length too high for this burst rate",
        ),
        (limit(0, 1, 1), "require corresponding bps/iops values"),
        (limit(2, 1, 1), "cannot be lower than bps/iops"),
    ] {
        let mut limits = ThrottleLimits::default();
        limits.bytes.read = limit;
        let found = limits.check().unwrap_err();
        assert!(found.contains(why), "{limit:?}: {found}");
    }
    let sized = ThrottleLimits {
        request_size: 512,
        ..ThrottleLimits::default()
    };
    assert!(
        sized
            .check()
            .unwrap_err()
            .contains("requires an iops value")
    );
}
