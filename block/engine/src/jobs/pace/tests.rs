use std::time::Duration;

use super::{LEAST, MOST, Pace, TARGET};

#[test]
fn a_slow_disk_shortens_the_lead_and_a_fast_one_lengthens_it() {
    let mut pace = Pace::default();
    let start = pace.limit;
    pace.adapt(TARGET * 2);
    assert_eq!(pace.limit, start / 2);
    pace.adapt(TARGET / 2);
    assert_eq!(pace.limit, start / 2);
    pace.adapt(Duration::ZERO);
    assert_eq!(pace.limit, start);
    for _ in 0..20 {
        pace.adapt(TARGET * 100);
    }
    assert_eq!(pace.limit, LEAST);
    for _ in 0..20 {
        pace.adapt(Duration::ZERO);
    }
    assert_eq!(pace.limit, MOST);
}
