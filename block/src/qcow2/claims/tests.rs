use super::*;

fn first(n: u64) -> GuestCluster {
    GuestCluster(n)
}

#[test]
fn a_claim_ends_where_the_next_begins() {
    let claims = Claims::default();
    let held = claims.claim(first(10), 5).unwrap();
    assert_eq!(held.count(), 5);
    assert!(claims.claim(first(10), 1).is_none());
    assert!(claims.claim(first(14), 3).is_none());
    assert_eq!(claims.claim(first(7), 8).unwrap().count(), 3);
    assert_eq!(claims.claim(first(15), 8).unwrap().count(), 8);
    drop(held);
    assert_eq!(claims.claim(first(14), 3).unwrap().count(), 3);
}

#[test]
fn what_is_given_up_can_be_claimed() {
    let claims = Claims::default();
    let mut held = claims.claim(first(0), 10).unwrap();
    held.shrink(4);
    assert_eq!(claims.claim(first(4), 6).unwrap().count(), 6);
    assert!(claims.claim(first(3), 1).is_none());
    held.shrink(7);
    assert_eq!(held.count(), 4, "it only shrinks");
}
