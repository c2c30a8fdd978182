//! What a header names after a snapshot or a merge is the layer that is open.

use std::{fs, path::Path};

use strata_exec::{Queue, yield_now};
use strata_format::{backing::Backing, qcow2::CreateOptions};
use strata_graph::{Format, create_image};

use super::{
    Bench,
    bad_input::overlay,
    live::{completed, qemu_img, snapshot, stream},
};
use crate::api::{ChangeBackingFile, Cmd, Event, JobRef, NewImageMode, Reply};

/// `blockdev-snapshot-sync` with `mode=existing`.
fn onto_existing(file: &Path) -> Cmd {
    let mut cmd = snapshot("virtio0", file);
    if let Cmd::BlockdevSnapshotSync(overlay) = &mut cmd {
        overlay.mode = Some(NewImageMode::Existing);
    }
    cmd
}

/// An image of 1 MiB that begins with `byte`.
fn image(bench: &Bench, name: &str, byte: u8) -> std::path::PathBuf {
    let path = bench.path(name);
    qemu_img(
        &["create", "-q", "-f", "qcow2", path.to_str().unwrap()],
        Path::new("1M"),
    );
    let disk = bench.open("other", &path, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![byte; 65536]).unwrap();
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    path
}

/// The error of a snapshot that changes nothing.
fn refused(bench: &Bench, cmd: Cmd) -> String {
    let error = bench.command(cmd).unwrap_err().desc;
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn an_overlay_that_names_something_else_is_refused() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let other = image(&bench, "other", 2);
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let top = bench.path("top");
    for (name, backing, format) in [
        ("none", None, None),
        ("other", Some("other"), Some("qcow2")),
        ("missing", Some("missing"), Some("qcow2")),
        ("raw", Some("base"), Some("raw")),
        ("export", Some("nbd://localhost/base"), Some("qcow2")),
    ] {
        let _ = fs::remove_file(&top);
        match backing {
            None => {
                qemu_img(
                    &["create", "-q", "-f", "qcow2", top.to_str().unwrap()],
                    Path::new("1M"),
                );
            }
            Some(backing) => overlay(&top, backing, format),
        }
        let before = fs::read(&top).unwrap();
        let error = refused(&bench, onto_existing(&top));
        assert!(
            error.contains("top") && error.contains("base"),
            "{name}: {error}"
        );
        assert!(error.contains("rebase -u"), "{name}: {error}");
        // Still there, and not changed: it was there before.
        assert_eq!(fs::read(&top).unwrap(), before, "{name}");
        assert_eq!(
            bench.engine.find_disk("virtio0").unwrap().root().path(),
            base
        );
        bench.write(&disk, 65536, vec![3; 512]).unwrap();
    }
    // By whatever name it is the same file.
    std::os::unix::fs::symlink(&base, bench.path("link")).unwrap();
    fs::remove_file(&top).unwrap();
    overlay(&top, "link", Some("qcow2"));
    bench.command(onto_existing(&top)).unwrap();
    bench.write(&disk, 512, vec![4; 512]).unwrap();
    let seen = bench.read(&disk, 0, 1 << 20);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
    assert!(bench.read(&disk, 0, 1 << 20) == seen);
    drop(other);
}

#[test]
fn a_disk_whose_file_has_another_name_now_gets_no_overlay() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let moved = bench.path("moved");
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let top = bench.path("top");
    fs::rename(&base, &moved).unwrap();
    let gone = refused(&bench, snapshot("virtio0", &top));
    assert!(
        gone.contains("base") && gone.contains("renamed or replaced"),
        "{gone}"
    );
    assert!(!top.exists());
    fs::copy(&moved, &base).unwrap();
    let replaced = refused(&bench, snapshot("virtio0", &top));
    assert!(replaced.contains("renamed or replaced"), "{replaced}");
    assert!(!top.exists());
    fs::rename(&moved, &base).unwrap();
    bench.command(snapshot("virtio0", &top)).unwrap();
    drop(disk);
}

#[test]
fn a_merge_names_the_base_that_is_open_or_fails() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    for name in ["mid", "top"] {
        bench
            .command(snapshot("virtio0", &bench.path(name)))
            .unwrap();
    }
    let seen = bench.read(&disk, 0, 1 << 20);
    let moved = bench.path("moved");
    fs::rename(&base, &moved).unwrap();
    fs::copy(&moved, &base).unwrap();
    let error = refused(&bench, stream(Some("base"), 0));
    assert!(error.contains("renamed or replaced"), "{error}");
    fs::rename(&moved, &base).unwrap();

    // Renamed while the job is under way: it fails at its end, and the chain stays.
    let mut cmd = stream(Some("base"), 0);
    if let Cmd::BlockStream(merge) = &mut cmd {
        merge.auto_finalize = Some(false);
    }
    bench.command(cmd).unwrap();
    bench.until(|events| events.iter().any(|e| matches!(e, Event::JobPending { .. })));
    fs::rename(&base, &moved).unwrap();
    bench
        .command(Cmd::JobFinalize(JobRef {
            id: "virtio0".to_owned(),
        }))
        .unwrap();
    bench.until(completed);
    let failed = bench.events().into_iter().any(|event| {
        matches!(event, Event::JobCompleted(_, Some(why)) if why.contains("renamed or replaced"))
    });
    assert!(failed);
    fs::rename(&moved, &base).unwrap();
    assert_eq!(
        bench
            .engine
            .find_disk("virtio0")
            .unwrap()
            .root()
            .chain()
            .count(),
        3
    );
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench
        .open("virtio0", &bench.path("top"), Some(Format::Qcow2))
        .unwrap();
    assert!(bench.read(&disk, 0, 1 << 20) == seen);
}

#[test]
fn a_name_that_is_given_for_the_base_means_the_base() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    image(&bench, "other", 2);
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    for name in ["mid", "top"] {
        bench
            .command(snapshot("virtio0", &bench.path(name)))
            .unwrap();
    }
    let named = |name: &str| {
        let mut cmd = stream(Some("base"), 0);
        if let Cmd::BlockStream(merge) = &mut cmd {
            merge.backing_file = Some(name.to_owned());
        }
        cmd
    };
    for name in ["other", "nosuch", "nbd://localhost/base"] {
        let error = refused(&bench, named(name));
        assert!(error.contains(name) && error.contains("base"), "{error}");
    }
    bench.command(named("./base")).unwrap();
    bench.until(completed);
    let seen = bench.read(&disk, 0, 1 << 20);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench
        .open("virtio0", &bench.path("top"), Some(Format::Qcow2))
        .unwrap();
    assert!(bench.read(&disk, 0, 1 << 20) == seen);
    assert_eq!(
        bench
            .engine
            .find_disk("virtio0")
            .unwrap()
            .root()
            .chain()
            .count(),
        2
    );
}

#[test]
fn an_overlay_that_is_moved_before_it_is_used_is_refused() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let (top, moved) = (bench.path("top"), bench.path("moved"));
    for replaced in [false, true] {
        overlay(&top, "base", Some("qcow2"));
        let graph = bench.engine.find_disk("virtio0").unwrap();
        // Somebody is inside, so that the command has to wait when all is open.
        let leave = std::rc::Rc::new(std::cell::Cell::new(false));
        let (held, left) = (graph.clone(), leave.clone());
        bench.engine.exec().spawn(Queue::Guest, async move {
            let _pass = held.gate().enter().await;
            while !left.get() {
                yield_now().await;
            }
        });
        let answer = std::rc::Rc::new(std::cell::RefCell::new(None));
        let slot = answer.clone();
        let cmd = onto_existing(&top);
        bench
            .engine
            .execute(cmd, Box::new(move |reply| *slot.borrow_mut() = Some(reply)));
        while !graph.gate().is_closed() {
            bench.engine.poll();
        }
        fs::rename(&top, &moved).unwrap();
        if replaced {
            fs::copy(&moved, &top).unwrap();
        }
        leave.set(true);
        while answer.borrow().is_none() {
            bench.engine.poll();
        }
        let error = answer.take().unwrap().unwrap_err().desc;
        assert!(
            error.contains("top") && error.contains("renamed or replaced"),
            "{error}"
        );
        assert_eq!(graph.root().path(), base);
        let _ = fs::remove_file(&top);
        fs::remove_file(&moved).unwrap();
    }
    bench.write(&disk, 0, vec![3; 512]).unwrap();
}

#[test]
fn a_layer_whose_data_file_only_the_user_knows_gets_no_overlay() {
    let bench = Bench::new();
    let (base, data) = (bench.path("base"), bench.path("data"));
    let option = "data_file=named";
    let created = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", option])
        .args([base.as_os_str(), "1M".as_ref()])
        .current_dir(base.parent().unwrap())
        .status();
    assert!(created.unwrap().success());
    fs::copy(bench.path("named"), &data).unwrap();
    let mut spec = super::spec("virtio0", &base, Some(Format::Qcow2));
    spec.image.data_file = Some(data);
    let disk = bench.engine.open_disk(spec).unwrap();
    let top = bench.path("top");
    let error = refused(&bench, snapshot("virtio0", &top));
    assert!(
        error.contains("data file 'named'") && error.contains("/data'"),
        "{error}"
    );
    assert!(!top.exists());
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let _disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    bench.command(snapshot("virtio0", &top)).unwrap();
}

#[test]
fn a_name_in_json_says_the_format_too() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let _disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let top = bench.path("top");
    let file = format!(
        r#""file":{{"driver":"file","filename":"{}"}}"#,
        base.display()
    );
    for (driver, fits) in [("raw", false), ("qcow2", true)] {
        let name = format!(r#"json:{{"driver":"{driver}",{file}}}"#);
        let _ = fs::remove_file(&top);
        let (exec, image) = (bench.engine.exec().clone(), top.clone());
        let made = exec.clone();
        let options = CreateOptions {
            size: 1 << 20,
            backing: Some(Backing {
                name: name.into(),
                format: None,
            }),
            ..CreateOptions::default()
        };
        exec.block_on(async move { create_image(&made, &image, options).await.unwrap() });
        let done = bench.command(onto_existing(&top));
        assert_eq!(done.is_ok(), fits, "{driver}: {done:?}");
    }
    assert!(bench.engine.shut_down().is_empty());
    bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
}

#[test]
fn a_header_in_the_chain_is_only_told_the_truth() {
    let bench = Bench::new();
    let base = image(&bench, "base", 1);
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    for name in ["mid", "top"] {
        bench
            .command(snapshot("virtio0", &bench.path(name)))
            .unwrap();
    }
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    let layers: Vec<_> = root.chain().map(|node| node.name().to_owned()).collect();
    let change = |layer: &str, to: &str| {
        bench.command(Cmd::ChangeBackingFile(ChangeBackingFile {
            device: "virtio0".to_owned(),
            image_node_name: layer.to_owned(),
            backing_file: to.to_owned(),
        }))
    };
    for (layer, to, words) in [
        (&layers[1], "top", "does not lead to"),
        (&layers[1], "nosuch", "does not lead to"),
        (
            &layers[2],
            "base",
            "not allowing backing file change on an image without a backing file",
        ),
        (
            &"x".to_owned(),
            "base",
            "Cannot find device='' nor node-name='x'",
        ),
    ] {
        let error = change(layer, to).unwrap_err().desc;
        assert!(error.contains(words), "{error}");
    }
    for (layer, to) in [(&layers[1], "base"), (&layers[0], "./mid")] {
        assert_eq!(change(layer, to), Ok(Reply::Done));
    }
    bench.write(&disk, 512, vec![4; 512]).unwrap();
    let seen = bench.read(&disk, 0, 1 << 20);
    drop((disk, root));
    assert!(bench.engine.shut_down().is_empty());
    for (name, backing) in [("mid", "base"), ("top", "./mid")] {
        let info = qemu_img(&["info"], &bench.path(name));
        assert!(info.contains(&format!("backing file: {backing}")), "{info}");
    }
    let disk = bench
        .open("virtio0", &bench.path("top"), Some(Format::Qcow2))
        .unwrap();
    assert!(bench.read(&disk, 0, 1 << 20) == seen);
}
