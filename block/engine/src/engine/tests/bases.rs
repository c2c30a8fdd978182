//! Which layer a base's name means.

use std::{fs, path::PathBuf};

use strata_graph::{Format, disk::Disk};

use super::{
    Bench,
    live::{completed, snapshot, stream},
};

/// `images/base` <- `images/mid` <- `images/sub/upper` <- `top`, all named by absolute paths.
fn chain(bench: &Bench) -> (Disk, PathBuf) {
    let images = bench.path("images");
    fs::create_dir_all(images.join("sub")).unwrap();
    let base = images.join("base");
    fs::rename(bench.create("made"), &base).unwrap();
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    for name in ["images/mid", "images/sub/upper", "top"] {
        bench
            .command(snapshot("virtio0", &bench.path(name)))
            .unwrap();
    }
    (disk, base)
}

/// The layers that are left when everything above the base called `name` is merged.
fn left(name: &str) -> Result<usize, String> {
    let bench = Bench::new();
    let (_disk, _) = chain(&bench);
    let name = name.replace("$", bench.directory.path().to_str().unwrap());
    bench
        .command(stream(Some(&name), 0))
        .map_err(|error| error.desc)?;
    bench.until(completed);
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    Ok(root.chain().count())
}

#[test]
fn a_base_is_named_from_the_directory_of_the_image_above_it() {
    // From the top's directory.
    assert_eq!(left("images/base"), Ok(2));
    assert_eq!(left("./images/mid"), Ok(3));
    assert_eq!(left("images/sub/../base"), Ok(2));
    assert_eq!(left("images/sub/upper"), Ok(4));
    // From that of the image which has it as its backing file.
    assert_eq!(left("./base"), Ok(2));
    assert_eq!(left("../mid"), Ok(3));
    // As people say it who do not care where it lies.
    assert_eq!(left("base"), Ok(2));
    assert_eq!(left("$/images/base"), Ok(2));
    assert_eq!(left("$/images/../images/base"), Ok(2));
    assert_eq!(left("file:$/images/base"), Ok(2));
    assert_eq!(
        left("./nosuch"),
        Err("Can't find './nosuch' in the backing chain".to_owned())
    );
}

#[test]
fn every_name_of_the_file_will_do() {
    let bench = Bench::new();
    let (_disk, base) = chain(&bench);
    fs::hard_link(&base, bench.path("hard")).unwrap();
    std::os::unix::fs::symlink("images/base", bench.path("soft")).unwrap();
    fs::rename(&base, bench.path("images/renamed")).unwrap();
    fs::write(&base, "something else").unwrap();
    let top = bench.engine.find_disk("virtio0").unwrap().root();
    let found = |name: &str| {
        let named = strata_graph::named_layer(&top, name).unwrap();
        named.path().to_owned()
    };
    assert_eq!(found("hard"), base);
    assert_eq!(found("images/renamed"), base);
    // As the header says it: that is what the chain calls it.
    assert_eq!(found(base.to_str().unwrap()), base);
}
