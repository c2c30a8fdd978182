use super::*;

#[test]
fn a_directory_s_line_names_it_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let line = directory_line(dir.path()).unwrap();
    assert!(line.contains(&dir.path().display().to_string()), "{line}");
    assert!(line.contains("holes") && line.contains("extents"), "{line}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let error = directory_line(Path::new("/nonexistent/directory")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn cannot_is_told_from_went_wrong() {
    assert!(matches!(supported(Err(Errno::OPNOTSUPP)), Ok(false)));
    assert!(supported(Err(Errno::NOSPC)).is_err());
}
