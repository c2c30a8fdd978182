use std::time::Duration;

use super::{LEAST, LONGEST_REST, MOST, SHORT, Stride, TOO_LONG};

#[test]
fn rests_only_where_steps_are_long() {
    assert_eq!(Stride::rest_after(SHORT / 2), Duration::ZERO);
    assert_eq!(Stride::rest_after(SHORT * 3), SHORT * 6);
    assert_eq!(Stride::rest_after(Duration::from_secs(1)), LONGEST_REST);
}

#[test]
fn steps_shrink_where_they_hold_the_thread_and_grow_where_they_do_not() {
    let mut stride = Stride::default();
    let start = stride.bytes();
    stride.adapt(TOO_LONG * 2);
    assert_eq!(stride.bytes(), start / 2);
    stride.adapt((SHORT + TOO_LONG) / 2);
    assert_eq!(stride.bytes(), start / 2);
    for _ in 0..20 {
        stride.adapt(Duration::from_secs(1));
    }
    assert_eq!(stride.bytes(), LEAST);
    for _ in 0..20 {
        stride.adapt(Duration::ZERO);
    }
    assert_eq!(stride.bytes(), MOST);
}
