use super::SgList;
use std::sync::Arc;

/// A list of three pieces (3, 0 and 5 bytes) on a buffer that counts up.
fn pieces() -> SgList {
    let backing = SgList::from_vec((0..16).collect());
    let base = backing.pieces().next().unwrap().0;
    let at = |n: usize| base.wrapping_add(n);
    // SAFETY: the pieces lie in `backing`, which the list keeps.
    unsafe { SgList::from_raw([(at(0), 3), (at(8), 0), (at(10), 5)], Arc::new(backing)) }
}

#[test]
fn copies_across_pieces() {
    let list = pieces();
    assert_eq!(list.to_vec(), [0, 1, 2, 10, 11, 12, 13, 14]);
    list.copy_from(2, &[90, 91]);
    assert_eq!(list.slice(1, 4).to_vec(), [1, 90, 91, 11]);
    list.fill(0, 8, 0);
    assert!(list.is_zero());
}

#[test]
fn slices_share_memory_and_keep_it() {
    let slice = pieces().slice(2, 3);
    slice.copy_from(0, &[7, 8, 9]);
    assert_eq!(slice.slice(1, 2).to_vec(), [8, 9]);
}

#[test]
#[should_panic(expected = "outside a list")]
fn refuses_a_range_outside() {
    pieces().slice(5, 4);
}

#[test]
fn an_empty_list_is_zero() {
    assert!(SgList::empty().is_zero());
    assert!(SgList::zeroed(0).is_empty());
}

/// A process that is killed while it writes from memory that was never touched leaves a part of the
/// write that ends where a page does.
#[test]
fn no_page_begins_within_a_sector_of_a_new_buffer() {
    for len in [1, 512, 4096, 5000, 65536, 200_000, 1 << 20] {
        let list = SgList::zeroed(len);
        let (base, piece) = list.pieces().next().unwrap();
        assert_eq!((base as usize % 512, piece), (0, len));
        assert!(list.is_zero());
        list.copy_from(len - 1, &[1]);
        assert!(!list.is_zero());
    }
}

#[test]
fn bytes_come_back_without_a_copy_only_from_the_last_list_on_a_whole_buffer() {
    let base = |list: &SgList| list.pieces().next().unwrap().0.cast_const();
    let list = SgList::from_vec(vec![1, 2, 3]);
    let at = base(&list);
    let shared = list.clone();
    let copy = list.into_vec();
    assert_eq!(copy, [1, 2, 3]);
    assert_ne!(copy.as_ptr(), at);
    let taken = shared.into_vec();
    assert_eq!((taken.as_ptr(), taken.len()), (at, 3));
    assert_eq!(SgList::from_vec(taken).slice(1, 1).into_vec(), [2]);
    assert_eq!(pieces().into_vec(), [0, 1, 2, 10, 11, 12, 13, 14]);
    assert!(SgList::empty().into_vec().is_empty());
}
