use std::time::Duration;

use super::*;

fn turn(more_work_now: bool, next_deadline: Option<Instant>) -> Turn {
    Turn {
        more_work_now,
        next_deadline,
    }
}

#[test]
fn the_loop_sleeps_only_where_nothing_is_to_do() {
    let soon = Instant::now() + Duration::from_secs(5);
    assert_eq!(timeout(&turn(true, Some(soon)), Some(soon)), 0);
    assert_eq!(timeout(&turn(false, None), None), -1);
    let later = Some(soon + Duration::from_secs(50));
    for (deadline, alarm) in [(Some(soon), None), (later, Some(soon)), (Some(soon), later)] {
        let wait = timeout(&turn(false, deadline), alarm);
        assert!(wait > 0 && wait <= 5001, "{wait}");
    }
}

#[test]
fn a_deadline_that_has_passed_or_is_far_away_is_no_special_case() {
    let now = Instant::now();
    assert_eq!(timeout(&turn(false, Some(now)), None), 1);
    let far = now + Duration::from_secs(1 << 32);
    assert_eq!(timeout(&turn(false, Some(far)), None), i32::MAX);
}
