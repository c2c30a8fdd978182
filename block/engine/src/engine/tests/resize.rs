//! Disks that change their size while they are used.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};

use strata_exec::{Executor, mem::SgList};
use strata_format::{
    qcow2::{CreateOptions, Preallocation},
    qed,
};
use strata_graph::{
    Format, NewImage,
    chain::Opener,
    create_image, create_image_in,
    disk::{Op, Request},
};
use strata_storage::{Files, SimDirectory, error::IoError};

use super::{Bench, live::qemu_img, live::snapshot, live::stream};
use crate::{
    api::{BlockResize, Cmd, Reply},
    engine::{DiskSpec, Engine},
};

fn resize(device: &str, size: u64) -> Cmd {
    Cmd::BlockResize(BlockResize {
        device: Some(device.to_owned()),
        size,
        ..BlockResize::default()
    })
}

fn virtual_size(bench: &Bench) -> u64 {
    let Reply::Block(disks) = bench.command(Cmd::QueryBlock).unwrap() else {
        panic!()
    };
    disks[0].inserted.as_ref().unwrap().image.virtual_size
}

#[test]
fn a_disk_in_use_grows_and_shrinks() {
    let bench = Bench::new();
    let path = bench.create("disk.qcow2");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 3 << 20, vec![3; 1 << 20]).unwrap();
    assert_eq!(bench.command(resize("virtio0", 8 << 20)), Ok(Reply::Done));
    assert_eq!((disk.info().size, virtual_size(&bench)), (8 << 20, 8 << 20));
    bench.write(&disk, 6 << 20, vec![6; 2 << 20]).unwrap();
    assert_eq!(bench.read(&disk, 4 << 20, 1 << 20), vec![0; 1 << 20]);
    bench.command(resize("virtio0", 7 << 20)).unwrap();
    let data = SgList::zeroed(512);
    let result = bench.run(&disk, Op::Read, 7 << 20, 512, data);
    assert!(matches!(result, Err(IoError::OutOfRange)));
    bench.command(resize("virtio0", 8 << 20)).unwrap();
    assert_eq!(bench.read(&disk, 7 << 20, 1 << 20), vec![0; 1 << 20]);
    assert_eq!(bench.read(&disk, 6 << 20, 1 << 20), vec![6; 1 << 20]);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-f", "qcow2"], &path);
}

#[test]
fn an_overlay_and_its_merge_have_the_new_size() {
    let bench = Bench::new();
    let path = bench.create("base.qcow2");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![9; 4 << 20]).unwrap();
    let overlay = bench.path("overlay.qcow2");
    bench.command(snapshot("virtio0", &overlay)).unwrap();
    bench.command(resize("virtio0", 1 << 20)).unwrap();
    bench.command(resize("virtio0", 3 << 20)).unwrap();
    let mut expected = vec![9; 1 << 20];
    expected.resize(3 << 20, 0);
    assert_eq!(bench.read(&disk, 0, 3 << 20), expected);
    bench.command(stream(None, 0)).unwrap();
    bench.until(super::live::completed);
    assert_eq!(bench.read(&disk, 0, 3 << 20), expected);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-f", "qcow2"], &overlay);
}

#[test]
fn a_merge_and_a_resize_keep_out_of_each_others_way() {
    let bench = Bench::new();
    let path = bench.create("base.qcow2");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![9; 4 << 20]).unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("overlay.qcow2")))
        .unwrap();
    bench.command(stream(None, 1)).unwrap();
    let error = bench.command(resize("virtio0", 8 << 20)).unwrap_err();
    assert!(error.desc.contains("is busy"), "{error}");
    assert_eq!(disk.info().size, 4 << 20);
}

#[test]
fn requests_that_waited_do_not_reach_behind_the_new_end() {
    let bench = Bench::new();
    let path = bench.create("disk.qcow2");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    let results = Rc::new(RefCell::new(Vec::new()));
    let send = |offset: u64| {
        let data = SgList::from_vec(vec![1; 1 << 20]);
        let (op, len) = (Op::Write { fua: false }, 1 << 20);
        let request = Request {
            op,
            offset,
            len,
            data,
        };
        let results = results.clone();
        disk.submit(request, move |done| results.borrow_mut().push(done.is_ok()));
    };
    let reply = Rc::new(RefCell::new(None));
    let slot = reply.clone();
    send(3 << 20);
    bench.engine.execute(
        resize("virtio0", 2 << 20),
        Box::new(move |result| *slot.borrow_mut() = Some(result)),
    );
    // While it drains, or before: either is right, but nothing may be written behind the end.
    for _ in 0..8 {
        send(1 << 20);
        send(3 << 20);
        bench.engine.poll();
    }
    while results.borrow().len() < 17 || reply.borrow().is_none() {
        bench.engine.poll();
    }
    assert_eq!(disk.info().size, 2 << 20);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-f", "qcow2"], &path);
    let json = qemu_img(&["map", "--output=json", "-f", "qcow2"], &path);
    assert!(!json.contains("3145728"), "{json}");
}

#[test]
fn raw_disks_too_and_qed_only_grows() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, vec![5; 4096]).unwrap();
    let disk = bench.open("raw", &path, Some(Format::Raw)).unwrap();
    bench.command(resize("raw", 1024)).unwrap();
    bench.command(resize("raw", 2048)).unwrap();
    let mut expected = vec![5; 1024];
    expected.resize(2048, 0);
    assert_eq!(bench.read(&disk, 0, 2048), expected);

    let (path, exec) = (bench.path("disk.qed"), bench.engine.exec().clone());
    let image = path.clone();
    let options = qed::CreateOptions {
        size: 1 << 20,
        cluster_size: 4096,
        ..Default::default()
    };
    let made = exec.clone();
    exec.block_on(async move {
        create_image(&made, &image, NewImage::Qed(options))
            .await
            .unwrap();
    });
    let disk = bench.open("qed", &path, Some(Format::Qed)).unwrap();
    bench.write(&disk, 0, vec![1; 1 << 20]).unwrap();
    let error = bench.command(resize("qed", 1 << 19)).unwrap_err();
    assert_eq!(error.desc, "Shrinking images is currently not supported");
    bench.command(resize("qed", 9 << 20)).unwrap();
    bench.write(&disk, 8 << 20, vec![2; 1 << 20]).unwrap();
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-f", "qed"], &path);
    let raw = bench.path("qed.raw");
    qemu_img(
        &["convert", "-f", "qed", "-O", "raw", path.to_str().unwrap()],
        &raw,
    );
    let mut expected = vec![1; 1 << 20];
    expected.resize(8 << 20, 0);
    expected.resize(9 << 20, 2);
    assert!(std::fs::read(raw).unwrap() == expected);
}

#[test]
fn what_cannot_be_is_refused_in_qemus_words() {
    let bench = Bench::new();
    let path = bench.create("disk.qcow2");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    for (device, size, why) in [
        (
            "nosuch",
            512,
            "Cannot find device='nosuch' nor node-name=''",
        ),
        ("virtio0", 1000, "The new size must be a multiple of 512"),
    ] {
        let error = bench.command(resize(device, size)).unwrap_err();
        assert_eq!(error.desc, why);
    }
    assert_eq!(disk.info().size, 4 << 20);
}

/// Fails at each write, flush and length change in turn.
#[test]
fn after_a_resize_that_fails_guest_and_image_have_the_same_size() {
    for format in [Format::Raw, Format::Qcow2, Format::Qed] {
        for calls in 0..12 {
            let size = if format == Format::Qed {
                3 << 20
            } else {
                1 << 20
            };
            resize_that_fails(format, calls, size);
        }
    }
}

fn resize_that_fails(format: Format, calls: u64, size: u64) {
    let exec = Executor::new().unwrap();
    let directory = SimDirectory::new(BTreeMap::new(), 1);
    let files = Files::Sim(directory.clone());
    let path = PathBuf::from("/simulated/disk");
    let image = match format {
        Format::Raw => NewImage::Raw {
            size: 2 << 20,
            preallocation: Preallocation::Off,
        },
        Format::Qcow2 => NewImage::Qcow2(CreateOptions {
            size: 2 << 20,
            ..CreateOptions::default()
        }),
        Format::Qed => NewImage::Qed(qed::CreateOptions {
            size: 2 << 20,
            ..qed::CreateOptions::default()
        }),
    };
    let (inner, among, name) = (exec.clone(), files.clone(), path.clone());
    exec.block_on(async move {
        let made = create_image_in(&among, &inner, &name, image).await;
        made.unwrap();
    });
    let opener = Opener::among(files, 1 << 20, exec.clone());
    let engine = Engine::with_opener(exec.clone(), opener, |_| {});
    let mut spec = DiskSpec {
        path: path.clone(),
        ..DiskSpec::default()
    };
    spec.image.format = Some(format);
    spec.disk.id = "virtio0".to_owned();
    let disk = engine.open_disk(spec).unwrap();
    let root = engine.find_disk("virtio0").unwrap().root();
    let writing = root.clone();
    exec.block_on(async move {
        let data = SgList::from_vec(vec![1; 1 << 20]);
        writing.write(1 << 20, data).await.unwrap();
    });
    let file = directory.file(&path).unwrap();
    file.fail_after(calls);
    let answer = Rc::new(RefCell::new(None));
    let slot = answer.clone();
    engine.execute(
        resize("virtio0", size),
        Box::new(move |result| *slot.borrow_mut() = Some(result)),
    );
    while exec.task_count() > 0 {
        exec.poll();
    }
    assert!(answer.take().is_some());
    let in_image = match root.image().as_qcow2() {
        Some(image) => image.virtual_size(),
        None if format == Format::Raw => directory.file(&path).unwrap().bytes().len() as u64,
        None => root.size(),
    };
    let seen = (disk.info().size, root.size());
    assert_eq!(seen, (in_image, in_image), "{format}, {calls} calls");
}
