use super::*;

fn to_copy(progress: &Progress) -> Option<u64> {
    progress.describe().x_to_copy
}

/// A disk of 1024 parts of 100 bytes of which all is to be copied but every second part.
fn counted() -> Progress {
    let mut ahead = Ahead::new(102_400);
    for part in (0..1024).step_by(2) {
        ahead.count(part * 100, 100);
    }
    let progress = Progress::default();
    assert_eq!(to_copy(&progress), None, "before it is counted");
    progress.set_ahead(ahead);
    progress
}

#[test]
fn the_sum_stays_if_all_is_copied_as_counted() {
    let progress = counted();
    assert_eq!(to_copy(&progress), Some(51_200));
    for part in 0..1024 {
        for piece in 1..=4 {
            let bytes = if part % 2 == 0 { 25 } else { 0 };
            progress.passed(part * 100 + piece * 25, bytes);
            progress.copied(bytes);
            assert_eq!(to_copy(&progress), Some(51_200), "part {part}, {piece}");
        }
    }
    let end = progress.describe();
    assert_eq!((end.x_copied, end.x_seconds_left), (51_200, Some(0)));
}

#[test]
fn a_piece_may_span_parts() {
    let progress = counted();
    for end in (0..102_400).step_by(400).skip(1) {
        progress.passed(end, 200);
        assert_eq!(to_copy(&progress), Some(51_200), "{end}");
    }
}

#[test]
fn what_the_guest_has_written_itself_is_not_counted_any_more() {
    let progress = counted();
    progress.passed(10_000, 1000);
    // 5,000 were counted there.
    assert_eq!(to_copy(&progress), Some(47_200));
    progress.passed(102_400, 0);
    assert_eq!(to_copy(&progress), Some(1000));
}

#[test]
fn more_than_was_counted_makes_the_sum_larger() {
    let progress = counted();
    progress.passed(200, 200);
    assert_eq!(to_copy(&progress), Some(51_300));
    progress.passed(102_400, 51_100);
    assert_eq!(to_copy(&progress), Some(51_300));
    let mut again = Ahead::new(102_400);
    again.count(400, 500);
    progress.set_ahead(again);
    assert_eq!(to_copy(&progress), Some(51_800));
}

#[test]
fn a_rate_is_that_of_the_last_seconds() {
    let progress = counted();
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    for second in 0..=10 {
        progress
            .samples
            .borrow_mut()
            .push_back((at(second), progress.copied.get()));
        progress
            .copied
            .set(progress.copied.get() + if second < 5 { 100 } else { 10 });
    }
    assert_eq!(
        progress.rate(at(10)),
        12,
        "four seconds of 10, and what comes now"
    );
    assert_eq!(progress.rate(at(60)), 0, "it has stopped");
}
