use super::Mirror;
use crate::bench::Bench;

const GRAIN: u64 = 65536;
/// The last grain is not whole.
const SIZE: u64 = 4 * GRAIN + 1536;

#[test]
fn what_is_dirty_is_taken_once_in_whole_grains_and_in_order() {
    let bench = Bench::default();
    let [top, base] = ["top", "base"].map(|name| bench.layer(name, SIZE, true));
    let mirror = Mirror::new(top, base);
    assert_eq!((mirror.dirty_bytes(), mirror.take_dirty()), (0, vec![]));
    mirror.mark(SIZE - 1, 1);
    // The last byte of a grain and the first of the next.
    mirror.mark(2 * GRAIN - 1, 2);
    mirror.mark(0, 0);
    assert_eq!(mirror.dirty_bytes(), 3 * GRAIN);
    assert_eq!(mirror.take_dirty(), [GRAIN..3 * GRAIN, 4 * GRAIN..SIZE]);
    assert_eq!((mirror.dirty_bytes(), mirror.take_dirty()), (0, vec![]));
    mirror.mark(0, SIZE);
    assert_eq!(mirror.dirty_bytes(), SIZE);
    assert_eq!(
        mirror.take_dirty().as_slice(),
        std::slice::from_ref(&(0..SIZE))
    );
}
