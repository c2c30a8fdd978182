use super::{Name, NameError, Names};

/// The error's text, or nothing.
fn refused<T>(result: Result<T, NameError>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_disk_and_a_layer_do_not_have_the_same_name() {
    let names = Names::default();
    let disk = names.disk("a").unwrap();
    let layer = names.layer("b").unwrap();
    assert_eq!(
        refused(names.disk("a")),
        "Device with id 'a' already exists"
    );
    assert_eq!(
        refused(names.disk("b")),
        "Device name 'b' conflicts with an existing node name"
    );
    assert_eq!(
        refused(names.layer("a")),
        "node-name=a is conflicting with a device id"
    );
    assert_eq!(
        refused(names.layer("b")),
        "the node name 'b' is another layer's"
    );
    drop((disk, layer));
    assert_eq!(refused(names.disk("b")), "");
    assert_eq!(refused(names.layer("a")), "");
}

#[test]
fn names_are_made_up_around_those_that_are_taken() {
    let names = Names::default();
    let _disk = names.disk("#block101").unwrap();
    let layers = [names.made_up(), names.made_up()];
    assert_eq!(
        layers.each_ref().map(Name::as_str),
        ["#block100", "#block102"]
    );
    // Nobody chooses such a name for a layer.
    assert_eq!(
        refused(names.layer("#block103")),
        "Invalid node-name: '#block103'"
    );
}

#[test]
fn jobs_exports_and_objects_are_named_among_themselves() {
    let names = Names::default();
    let _taken = (
        names.disk("a").unwrap(),
        names.job("a").unwrap(),
        names.export("a").unwrap(),
        names.object("a").unwrap(),
    );
    assert_eq!(refused(names.job("a")), "Job ID 'a' already in use");
    assert_eq!(refused(names.job("1")), "Invalid job ID '1'");
    assert_eq!(
        refused(names.export("a")),
        "Block export id 'a' is already in use"
    );
    assert_eq!(
        refused(names.object("a")),
        "attempt to add duplicate property 'a' to object (type 'container')"
    );
}
