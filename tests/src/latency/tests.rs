use super::*;
use crate::serial::DiskSample;

fn sample(start: Instant, second: u64, longest: [u64; 3]) -> IoSample {
    let at = start + Duration::from_secs(second);
    let disks = vec![DiskSample {
        name: "vda".to_owned(),
        longest,
        requests: 1,
    }];
    IoSample {
        at,
        guest_ms: second * 1000,
        disks,
    }
}

#[test]
fn reports_are_sorted_by_overlap() {
    let start = Instant::now();
    let samples = [
        sample(start, 1, [10, 20, 30]),
        sample(start, 2, [11, 21, 31]),
        sample(start, 3, [1, 2, 300]),
        sample(start, 4, [5, 5, 5]),
    ];
    let at = |ms| start + Duration::from_millis(ms);
    let longest = compare(&samples, &[(at(2100), at(2200))]);
    assert_eq!(longest.during.to_string(), "0.3 ms (flush of vda)");
    assert_eq!(longest.without.micros, 31);
    assert!((longest.ratio().unwrap() - 300.0 / 31.0).abs() < 1e-9);
    assert_eq!(compare(&samples, &[]).ratio(), None);
}
