//! How headers name backing files, and what is opened for such a name.

use std::path::Path;

use strata_graph::Format;

use super::{
    Bench,
    bad_input::{open_error, overlay},
    live::{completed, qemu_img, snapshot, stream},
};

/// What the header of `top` says of its backing file after everything between it and `base` was
/// merged.
fn name_after_merge(bench: &Bench, top: &Path, base: &Path) -> String {
    let disk = bench.open("virtio0", top, Some(Format::Qcow2)).unwrap();
    let before = bench.read(&disk, 0, 1 << 20);
    bench
        .command(stream(Some(base.to_str().unwrap()), 0))
        .unwrap();
    bench.until(completed);
    bench.events();
    assert!(bench.engine.shut_down().is_empty());
    drop(disk);
    let info = qemu_img(&["info", "--output=json"], top);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let disk = bench.open("virtio0", top, Some(Format::Qcow2)).unwrap();
    assert_eq!(bench.read(&disk, 0, 1 << 20), before);
    assert!(bench.engine.shut_down().is_empty());
    info["backing-filename"].as_str().unwrap().to_owned()
}

#[test]
fn a_relative_name_stays_relative_in_the_same_directory() {
    let bench = Bench::new();
    let base = bench.create("base");
    overlay(&bench.path("mid"), "base", Some("qcow2"));
    overlay(&bench.path("top"), "mid", Some("qcow2"));
    assert_eq!(name_after_merge(&bench, &bench.path("top"), &base), "base");
    // The same directory under another name is the same directory.
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    let link = bench.path("elsewhere/link");
    std::os::unix::fs::symlink(bench.directory.path(), &link).unwrap();
    let mid = link.join("mid");
    overlay(&bench.path("top2"), mid.to_str().unwrap(), Some("qcow2"));
    assert_eq!(name_after_merge(&bench, &bench.path("top2"), &base), "base");
}

#[test]
fn a_relative_name_that_would_mean_another_file_becomes_absolute() {
    let bench = Bench::new();
    let base = bench.create("base");
    std::fs::create_dir(bench.path("sub")).unwrap();
    overlay(&bench.path("mid"), "base", Some("qcow2"));
    let top = bench.path("sub/top");
    overlay(&top, "../mid", Some("qcow2"));
    let name = name_after_merge(&bench, &top, &base);
    assert!(Path::new(&name).is_absolute(), "{name}");
    assert_eq!(
        Path::new(&name).canonicalize().unwrap(),
        base.canonicalize().unwrap()
    );
}

#[test]
fn an_absolute_name_stays_as_it_is() {
    let bench = Bench::new();
    let base = bench.create("base");
    std::fs::create_dir(bench.path("sub")).unwrap();
    overlay(&bench.path("mid"), base.to_str().unwrap(), Some("qcow2"));
    overlay(&bench.path("sub/top"), "../mid", Some("qcow2"));
    let name = name_after_merge(&bench, &bench.path("sub/top"), &base);
    assert_eq!(name, base.to_str().unwrap());
}

#[test]
fn a_snapshot_in_another_directory_opens_again_without_an_option() {
    let bench = Bench::new();
    let (old, new) = (bench.path("old"), bench.path("new-path"));
    std::fs::create_dir(&old).unwrap();
    std::fs::create_dir(&new).unwrap();
    let (hd0, top) = (old.join("hd0.img"), new.join("disk.img"));
    std::fs::write(&hd0, vec![3; 1 << 20]).unwrap();
    let disk = bench.open("ide0-hd0", &hd0, Some(Format::Raw)).unwrap();
    bench.command(snapshot("ide0-hd0", &top)).unwrap();
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench.open("ide0-hd0", &top, Some(Format::Qcow2)).unwrap();
    assert_eq!(bench.read(&disk, 0, 512), [3; 512]);
}

#[test]
fn an_overlay_that_names_a_secret_shows_nothing_of_it() {
    let bench = Bench::new();
    let path = bench.path("upload");
    overlay(&path, "/etc/passwd", Some("raw"));
    let error = open_error(&bench, &path, Format::Qcow2);
    assert!(
        error.contains("/etc/passwd") && error.contains("backing-folders=/etc"),
        "{error}"
    );
}

#[test]
fn a_raw_image_stays_raw_whatever_its_guest_writes() {
    let bench = Bench::new();
    let secret = bench.path("secret");
    std::fs::write(&secret, [0x55; 1024]).unwrap();
    // What a guest would write: the header of an image whose backing file is the secret.
    let crafted = bench.path("crafted");
    overlay(&crafted, secret.to_str().unwrap(), Some("raw"));
    let mut crafted = std::fs::read(&crafted).unwrap();
    crafted.resize(crafted.len().next_multiple_of(512), 0);
    let (raw, top) = (bench.path("disk.raw"), bench.path("top"));
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let disk = bench.open("virtio0", &raw, Some(Format::Raw)).unwrap();
    bench.write(&disk, 0, crafted.clone()).unwrap();
    bench.command(snapshot("virtio0", &top)).unwrap();
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let sees = |path: &Path, format| {
        let disk = bench.open("virtio0", path, Some(format)).unwrap();
        let bytes = bench.read(&disk, 0, crafted.len());
        assert!(bytes == crafted, "{}", path.display());
        drop(disk);
        assert!(bench.engine.shut_down().is_empty());
    };
    sees(&raw, Format::Raw);
    sees(&top, Format::Qcow2);
    // Where its format is not given it is not opened at all.
    let error = bench.open("virtio0", &raw, None).err().unwrap().to_string();
    assert!(error.contains("never guessed"), "{error}");
}
