use std::{fs, os::unix::fs::symlink, path::Path};

use super::Identity;

fn of(path: impl AsRef<Path>) -> Identity {
    Identity::of(path.as_ref()).unwrap()
}

#[test]
fn every_name_of_a_file_has_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    symlink(&file, directory.path().join("symbolic")).unwrap();
    fs::hard_link(&file, directory.path().join("hard")).unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    for name in ["symbolic", "hard", "sub/../file", "./file"] {
        assert_eq!(of(directory.path().join(name)), of(&file), "{name}");
    }
    fs::write(directory.path().join("copy"), "x").unwrap();
    assert_ne!(of(directory.path().join("copy")), of(&file));
    let nothing = Identity::of(&directory.path().join("nothing"));
    assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_file_keeps_its_identity_under_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    fs::write(&old, "x").unwrap();
    let before = of(&old);
    fs::rename(&old, &new).unwrap();
    fs::write(&old, "y").unwrap();
    assert_eq!(of(&new), before);
    assert_ne!(of(&old), before);
}

#[test]
fn exports_are_told_apart_by_server_and_name() {
    assert_eq!(of("nbd://host/x"), of("nbd://host:10809/x"));
    assert_ne!(of("nbd://host/x"), of("nbd://host/y"));
    assert_ne!(of("nbd://host/x"), of("nbd://other/x"));
    assert_eq!(
        of("nbd+unix:///?socket=/a%20b"),
        of("nbd+unix:///?socket=/a b")
    );
    assert!(Identity::of(Path::new("nbd:///x")).is_err());
}
