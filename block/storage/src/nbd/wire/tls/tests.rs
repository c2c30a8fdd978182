use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use super::readable_by_all;

#[test]
fn a_key_that_everybody_can_read_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("server-key.pem");
    assert!(!readable_by_all(&key), "there is none");
    fs::write(&key, "a key").unwrap();
    for (mode, noticed) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        assert_eq!(readable_by_all(&key), noticed, "{mode:o}");
    }
}
