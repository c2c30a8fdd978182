use std::{
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
};

use super::*;

fn works_and_is_nowhere(mut file: File, directory: &Path) {
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    file.write_all(b"some bytes").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "some bytes");
}

#[test]
fn it_has_no_name_from_the_beginning() {
    let directory = tempfile::tempdir().unwrap();
    works_and_is_nowhere(create(directory.path()).unwrap(), directory.path());
}

#[test]
fn where_there_are_no_such_files_the_name_goes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    // Somebody has the first name that is tried.
    let first = format!(".strata-{}-0", std::process::id());
    fs::write(directory.path().join(&first), "somebody's").unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = create_and_unlink(directory.path(), &options).unwrap();
    let taken = directory.path().join(first);
    assert_eq!(fs::read(&taken).unwrap(), b"somebody's");
    fs::remove_file(taken).unwrap();
    works_and_is_nowhere(file, directory.path());
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let error = create(Path::new("/nosuch/directory")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_it_is_called_leads_nowhere() {
    let path = unnamed_path("overlay-of-virtio0");
    assert!(is_unnamed(&path) && !is_unnamed(Path::new("/dev/null")));
    assert!(!is_unnamed(Path::new("/dev/nullified")));
    assert_eq!(
        File::create(&path).unwrap_err().raw_os_error(),
        Some(libc::ENOTDIR)
    );
}
