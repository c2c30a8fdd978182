use super::*;

#[test]
fn a_boundary_belongs_to_what_is_longer() {
    let mut histogram = Histogram::new(vec![10, 50, 100]).unwrap();
    for nanos in [0, 9, 10, 49, 50, 100, 101, u64::MAX] {
        histogram.record(Duration::from_nanos(nanos));
    }
    histogram.record(Duration::MAX);
    assert_eq!(histogram.boundaries(), [10, 50, 100]);
    assert_eq!(histogram.bins(), [2, 2, 1, 4]);
}

#[test]
fn boundaries_ascend_from_above_0() {
    for wrong in [vec![0], vec![0, 1], vec![5, 5], vec![5, 4]] {
        assert_eq!(Histogram::new(wrong), None);
    }
    let mut one = Histogram::new(vec![]).unwrap();
    one.record(Duration::ZERO);
    assert_eq!(one.bins(), [1]);
}
