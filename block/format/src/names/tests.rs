use super::Namespace;

#[test]
fn a_name_is_one_things_until_it_is_dropped() {
    let names = Namespace::default();
    let name = names.reserve("a").unwrap();
    assert_eq!(name.as_str(), "a");
    assert!(names.reserve("a").is_none() && names.contains("a"));
    let other = names.reserve("b").unwrap();
    drop(name);
    assert!(!names.contains("a") && names.contains("b"));
    let again = names.clone().reserve("a").unwrap();
    assert!(names.reserve("a").is_none());
    drop((again, other));
    assert!(!names.contains("a") && !names.contains("b"));
}

#[test]
fn what_has_a_name_in_one_namespace_has_none_in_another() {
    let (one, other) = (Namespace::default(), Namespace::default());
    let _name = one.reserve("a").unwrap();
    assert!(other.reserve("a").is_some());
}
