//! A chain that runs opens again with the same options, or the snapshot is refused before anything
//! is made.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

use strata_graph::{DiskOptions, Format, chain::ImageOptions, disk::Disk};

use super::{
    Bench,
    live::{completed, snapshot, stream},
};
use crate::engine::DiskSpec;

/// Opens `path` as a user does with `backing-folders=`.
fn open(
    bench: &Bench,
    path: &Path,
    format: Format,
    directories: Option<&[&Path]>,
) -> strata_storage::error::Result<Disk> {
    bench.engine.open_disk(DiskSpec {
        path: path.to_owned(),
        image: ImageOptions {
            format: Some(format),
            backing_folders: directories.map(|all| all.iter().map(|f| PathBuf::from(*f)).collect()),
            ..ImageOptions::default()
        },
        disk: DiskOptions {
            id: "virtio0".to_owned(),
            ..DiskOptions::default()
        },
    })
}

/// Takes a snapshot; then either the chain opens again and shows the same, or nothing was made and
/// the error names the option that would allow it. Whether there is an overlay.
fn snapshot_and_start_again(
    bench: &Bench,
    path: &Path,
    format: Format,
    directories: Option<&[&Path]>,
    top: &Path,
) -> bool {
    let disk = open(bench, path, format, directories).unwrap();
    let size = disk.info().size as usize;
    let taken = bench.command(snapshot("virtio0", top));
    let seen = bench.read(&disk, 0, size);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    match taken {
        Ok(_) => {
            let disk = open(bench, top, Format::Qcow2, directories).unwrap();
            assert!(bench.read(&disk, 0, size) == seen);
            drop(disk);
            assert!(bench.engine.shut_down().is_empty());
            true
        }
        Err(error) => {
            assert!(!top.exists(), "{error}");
            assert!(
                error.desc.contains("backing-folders=") && !error.desc.contains('\n'),
                "{error}"
            );
            false
        }
    }
}

fn directory(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.path(name);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn a_raw_disk_of_an_odd_length() {
    let bench = Bench::new();
    let (here, there) = (directory(&bench, "here"), directory(&bench, "there"));
    let disk = here.join("disk.raw");
    fs::write(&disk, vec![7; 100_000]).unwrap();
    let again = |directories: Option<&[&Path]>, top: PathBuf| {
        let taken = snapshot_and_start_again(&bench, &disk, Format::Raw, directories, &top);
        let _ = fs::remove_file(top);
        taken
    };
    assert!(again(None, here.join("top")));
    assert!(!again(None, there.join("top")));
    assert!(again(Some(&[here.as_path()]), there.join("top")));
}

#[test]
fn a_disk_with_its_own_directories() {
    let bench = Bench::new();
    let (here, there) = (directory(&bench, "here"), directory(&bench, "there"));
    let images = directory(&bench, "images");
    let disk = here.join("disk");
    fs::copy(bench.create("made"), &disk).unwrap();
    let again = |directories: &[&Path], top: PathBuf| {
        let taken = snapshot_and_start_again(&bench, &disk, Format::Qcow2, Some(directories), &top);
        let _ = fs::remove_file(top);
        taken
    };
    assert!(again(&[&images], here.join("top")));
    assert!(!again(&[&images], there.join("top")));
    assert!(again(&[&images, &here], there.join("top")));
}

#[test]
fn a_disk_in_a_system_directory() {
    let bench = Bench::new();
    let Ok(run) = tempfile::tempdir_in("/run") else {
        eprintln!("skipped: nothing can be made in /run");
        return;
    };
    let disk = run.path().join("disk");
    fs::copy(bench.create("made"), &disk).unwrap();
    let top = bench.path("top");
    assert!(!snapshot_and_start_again(
        &bench,
        &disk,
        Format::Qcow2,
        None,
        &top
    ));
    let directories: &[&Path] = &[run.path()];
    assert!(snapshot_and_start_again(
        &bench,
        &disk,
        Format::Qcow2,
        Some(directories),
        &top
    ));
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn on(file: &Path) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| Self(name.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_disk_on_a_block_device() {
    let bench = Bench::new();
    let file = bench.path("file");
    fs::write(&file, vec![9; 1 << 20]).unwrap();
    let Some(device) = Loop::on(&file) else {
        eprintln!("skipped: no loop device can be had");
        return;
    };
    let (disk, top) = (Path::new(&device.0), bench.path("top"));
    assert!(!snapshot_and_start_again(
        &bench,
        disk,
        Format::Raw,
        None,
        &top
    ));
    let directories: &[&Path] = &[Path::new("/dev")];
    assert!(snapshot_and_start_again(
        &bench,
        disk,
        Format::Raw,
        Some(directories),
        &top
    ));
}

#[test]
fn an_overlay_on_an_overlay_in_another_directory() {
    let bench = Bench::new();
    let (a, b, c) = (
        directory(&bench, "a"),
        directory(&bench, "b"),
        directory(&bench, "c"),
    );
    let (base, mid, top) = (a.join("base"), b.join("mid"), c.join("top"));
    fs::copy(bench.create("made"), &base).unwrap();
    assert!(snapshot_and_start_again(
        &bench,
        &base,
        Format::Qcow2,
        None,
        &mid
    ));
    assert!(snapshot_and_start_again(
        &bench,
        &mid,
        Format::Qcow2,
        None,
        &top
    ));
}

/// The layers between are what allowed the base: without them the top may not name it.
#[test]
fn a_merge_that_would_leave_a_chain_that_does_not_open_is_refused() {
    let bench = Bench::new();
    let (here, there) = (directory(&bench, "here"), directory(&bench, "there"));
    let base = here.join("base");
    fs::write(&base, vec![7; 100_000]).unwrap();
    let mid = here.join("mid");
    let disk = open(&bench, &base, Format::Raw, None).unwrap();
    bench.command(snapshot("virtio0", &mid)).unwrap();
    let top = there.join("top");
    bench.command(snapshot("virtio0", &top)).unwrap();
    let error = bench.command(stream(Some("base"), 0)).unwrap_err().desc;
    assert!(error.contains("backing-folders="), "{error}");
    // All of it is no question.
    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    let seen = bench.read(&disk, 0, 100_352);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = open(&bench, &top, Format::Qcow2, None).unwrap();
    assert!(bench.read(&disk, 0, 100_352) == seen);
}

#[test]
fn a_disk_whose_name_is_no_text() {
    let bench = Bench::new();
    let here = bench.directory.path().join(OsStr::from_bytes(b"h\xff"));
    fs::create_dir(&here).unwrap();
    let disk = here.join(OsStr::from_bytes(b"d\xfe"));
    fs::copy(bench.create("made"), &disk).unwrap();
    let (mid, top) = (bench.path("mid"), bench.path("top"));
    for (below, above) in [(&disk, &mid), (&mid, &top)] {
        let format = Format::Qcow2;
        assert!(snapshot_and_start_again(&bench, below, format, None, above));
    }
    // A merge names the base in the header of the top.
    let opened = open(&bench, &top, Format::Qcow2, None).unwrap();
    let root = || bench.engine.find_disk("virtio0").unwrap().root();
    let base = root().chain().last().unwrap();
    bench.command(stream(Some(base.name()), 0)).unwrap();
    bench.until(completed);
    let named = root().image().backing_name().unwrap().name;
    assert_eq!(named, disk.as_os_str());
    drop((opened, base));
    assert!(bench.engine.shut_down().is_empty());
    open(&bench, &top, Format::Qcow2, None).unwrap();
}
