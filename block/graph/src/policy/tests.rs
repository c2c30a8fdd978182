use super::*;

/// A directory with `vm/overlay`, `vm/sub/base` and `store/base`, whose lengths are ordinary, and
/// `store/notes`, whose is not.
fn directories() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["vm/sub", "store"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["vm/overlay", "vm/sub/base", "store/base"] {
        fs::write(root.join(name), [1; 1024]).unwrap();
    }
    fs::write(root.join("store/notes"), "secret").unwrap();
    directory
}

#[test]
fn ordinary_chains_need_no_option() {
    let directory = directories();
    let at = |name: &str| directory.path().join(name);
    for (base, format) in [
        ("vm/sub/base", Some(Format::Raw)),
        ("vm/../store/base", Some(Format::Raw)),
        ("store/base", None),
        ("store/notes", Some(Format::Qcow2)),
        ("store/missing", Some(Format::Raw)),
    ] {
        check(&at("vm/overlay"), "backing file", &at(base), format, None).unwrap();
    }
}

#[test]
fn what_is_no_disk_image_is_refused_with_the_option_that_would_allow_it() {
    let directory = directories();
    let at = |name: &str| directory.path().join(name);
    let overlay = at("vm/overlay");
    let device = Path::new("/dev/null");
    let shadow = Path::new("/etc/passwd");
    std::os::unix::fs::symlink(shadow, at("store/link")).unwrap();
    for (base, why, option) in [
        (shadow, "system directory", "backing-folders=/etc"),
        (
            &at("store/link"),
            "system directory",
            "backing-folders=/etc",
        ),
        (Path::new("/proc/self/maps"), "system directory", "=/proc"),
        (device, "not a regular file", "backing-folders=/dev"),
        (&at("store/notes"), "512", "backing-folders="),
    ] {
        let error = check(&overlay, "backing file", base, Some(Format::Raw), None).unwrap_err();
        assert!(error.contains(why) && error.contains(option), "{error}");
        let allowed = [base.canonicalize().unwrap().parent().unwrap().to_owned()];
        check(
            &overlay,
            "backing file",
            base,
            Some(Format::Raw),
            Some(&allowed),
        )
        .unwrap();
    }
    // A length that happens to fit does not open the system's directories to other formats either.
    assert!(check(&overlay, "backing file", shadow, Some(Format::Qcow2), None).is_err());
}

#[test]
fn given_directories_are_the_only_ones_besides_the_images_own() {
    let directory = directories();
    let at = |name: &str| directory.path().join(name);
    let overlay = at("vm/overlay");
    let raw = Some(Format::Raw);
    let error = check(&overlay, "backing file", &at("store/base"), raw, Some(&[])).unwrap_err();
    let option = format!("backing-folders={}", at("store").display());
    assert!(error.ends_with(&option), "{error}");
    check(&overlay, "backing file", &at("vm/sub/base"), raw, Some(&[])).unwrap();
    check(
        &overlay,
        "backing file",
        &at("store/base"),
        raw,
        Some(&[at("store")]),
    )
    .unwrap();
    let outside = at("store/../vm/overlay");
    assert!(
        check(
            &at("store/base"),
            "backing file",
            &outside,
            raw,
            Some(&[at("store")])
        )
        .is_err()
    );
    // The root directory as the image's own does not stand for everything.
    assert!(
        check(
            Path::new("/overlay"),
            "backing file",
            Path::new("/etc/passwd"),
            raw,
            None
        )
        .is_err()
    );
}

#[test]
fn exports_of_servers_are_in_no_directory() {
    let (upper, raw) = (Path::new("/vm/overlay"), Some(Format::Raw));
    for uri in ["nbd://host/x", "nbd+unix:///x?socket=/vm/s"] {
        let allowed = |directories: Option<&[PathBuf]>| {
            check(upper, "backing file", Path::new(uri), raw, directories)
        };
        allowed(None).unwrap();
        allowed(Some(&["/".into()])).unwrap();
        let error = allowed(Some(&["/vm".into()])).unwrap_err();
        assert!(error.ends_with("say backing-folders=/"), "{error}");
    }
}
