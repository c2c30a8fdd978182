use super::*;

#[test]
fn cores() {
    let parse = |text: &str| parse_core(text.as_ref());
    let core = |path: &str, addresses| CoreOption {
        path: path.into(),
        addresses,
    };
    assert_eq!(parse("a"), Ok(core("a", Addresses::Physical)));
    assert_eq!(parse("a,,b,paging=on"), Ok(core("a,b", Addresses::Kernel)));
    for (text, wanted) in [
        ("", "a file is missing"),
        ("a,paging=yes", "paging=yes: expected on, off"),
        ("a,size=1", "unknown key 'size'; known keys: paging"),
        ("a,b", "'b' is not key=value"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn an_older_core_does_not_stay() {
    let directory = tempfile::tempdir().unwrap();
    let core = |name: &str| CoreOption {
        path: directory.path().join(name),
        addresses: Addresses::Physical,
    };
    fs::write(core("old").path, "old").unwrap();
    core("old").prepare().unwrap();
    assert!(!core("old").path.exists());
    core("new").prepare().unwrap();
    let error = core("nosuch/core").prepare().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = core("").prepare().unwrap_err();
    assert_eq!(error.to_string(), "not a regular file");
}
