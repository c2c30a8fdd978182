use super::{get, max, set};

#[test]
fn every_width_keeps_its_neighbours() {
    for order in 0..=6 {
        let mut bytes = vec![0u8; 64];
        let count = (64 * 8) >> order;
        for index in 0..count {
            set(&mut bytes, order, index, max(order));
        }
        assert!(bytes.iter().all(|&b| b == 0xff), "order {order}");
        for index in 0..count {
            let value = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & max(order);
            set(&mut bytes, order, index, value);
            assert_eq!(get(&bytes, order, index), value);
            if index + 1 < count {
                assert_eq!(get(&bytes, order, index + 1), max(order));
            }
        }
    }
}

#[test]
fn layout_is_that_of_the_specification() {
    let bytes = [0b1010_0110, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde];
    assert_eq!([0, 1, 2, 3].map(|i| get(&bytes, 0, i)), [0, 1, 1, 0]);
    assert_eq!([0, 1, 2, 3].map(|i| get(&bytes, 1, i)), [2, 1, 2, 2]);
    assert_eq!([0, 1, 2, 3].map(|i| get(&bytes, 2, i)), [6, 10, 2, 1]);
    assert_eq!(get(&bytes, 3, 1), 0x12);
    assert_eq!(get(&bytes, 4, 1), 0x3456);
    assert_eq!(get(&bytes, 5, 1), 0x789a_bcde);
    assert_eq!(get(&bytes, 6, 0), 0xa612_3456_789a_bcde);
}
