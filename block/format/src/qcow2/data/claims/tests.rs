use super::*;

#[test]
fn a_claim_ends_where_the_next_begins() {
    let claims = Claims::new(Rc::default());
    let held = claims.claim(10, 15).unwrap();
    assert_eq!(held.end(), 15);
    assert!(claims.claim(10, 11).is_none());
    assert!(claims.claim(14, 17).is_none());
    assert_eq!(claims.claim(7, 15).unwrap().end(), 10);
    assert_eq!(claims.claim(15, 23).unwrap().end(), 23);
    drop(held);
    assert_eq!(claims.claim(14, 17).unwrap().end(), 17);
}

#[test]
fn what_is_given_up_can_be_claimed() {
    let claims = Claims::new(Rc::default());
    let mut held = claims.claim(0, 10).unwrap();
    held.shrink(4);
    assert_eq!(claims.claim(4, 10).unwrap().end(), 10);
    assert!(claims.claim(3, 4).is_none());
    held.shrink(7);
    assert_eq!(held.end(), 4, "it only shrinks");
}
