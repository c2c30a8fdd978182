//! Directories with images, and what both sides do to them.

use std::{
    path::PathBuf,
    process::{Command, Output},
    rc::Rc,
};

use strata_exec::{Executor, mem::SgList, random};
use strata_graph::{
    Format, Node,
    chain::{ImageOptions, Opener},
};

use crate::{
    matrix::{Case, DATA},
    requests::{Kind, Request},
};

/// The image's name.
pub const IMAGE: &str = "image.qcow2";
/// The backing file's name.
const BASE: &str = "base.raw";

pub struct Directory(tempfile::TempDir);

impl Directory {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program, ours or theirs, in the directory.
    pub fn output(&self, program: &str, args: &[&str]) -> Output {
        let path = match program {
            "strata-img" => env!("CARGO_BIN_EXE_strata-img"),
            _ => program,
        };
        let mut command = Command::new(path);
        let output = command.args(args).current_dir(self.0.path()).output();
        output.unwrap()
    }

    /// As [`Directory::output`] for a program that has to succeed; what it prints.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.output(program, args);
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a new image with `program`, which shows what lies below it. It names other files with
    /// `directory`, which is empty or ends in a slash, before them.
    pub fn create(&self, program: &str, case: &Case, directory: &str) {
        self.make_base(case);
        let (size, options) = (case.size().to_string(), case.options(directory));
        let base = format!("{directory}{BASE}");
        let mut args = vec!["create", "-f", "qcow2", "-o", &options];
        if case.backing {
            args.extend(["-b", &base, "-F", "raw"]);
        }
        args.extend([IMAGE, &size]);
        self.run(program, &args);
    }

    /// Does what the commands say, discards included.
    pub fn qemu_io(&self, commands: &[String]) {
        let mut args = vec!["-d", "unmap", "-f", "qcow2"];
        args.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
        args.push(IMAGE);
        self.run("qemu-io", &args);
    }

    /// Makes the backing file, if the case has one: shorter than the disk, and full of data.
    pub fn make_base(&self, case: &Case) {
        if case.backing {
            let sectors = case.size() / 512 * 3 / 4;
            let bytes: Vec<u8> = (0..sectors * 512)
                .map(|n| (n / 512 % 199 + 1) as u8)
                .collect();
            std::fs::write(self.path(BASE), bytes).unwrap();
        }
    }

    /// What QEMU sees on the disk, or in a snapshot of it.
    pub fn content(&self, snapshot: Option<&str>) -> Vec<u8> {
        self.seen_by("qemu-img", snapshot)
    }

    /// What `qemu-img` or `strata-img` sees.
    pub fn seen_by(&self, program: &str, snapshot: Option<&str>) -> Vec<u8> {
        let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
        args.extend(snapshot.iter().flat_map(|name| ["-l", name]));
        args.extend([IMAGE, "content.raw"]);
        self.run(program, &args);
        std::fs::read(self.path("content.raw")).unwrap()
    }

    /// QEMU's check finds nothing at all, not even a leak; nor does ours.
    pub fn check(&self) {
        self.run("qemu-img", &["check", "-f", "qcow2", IMAGE]);
        self.run("strata-img", &["check", "-f", "qcow2", IMAGE]);
    }

    /// A raw data file holds what the disk shows.
    pub fn check_data(&self, case: &Case, shown: &[u8]) {
        if case.data_file == Some(true) {
            let data = std::fs::read(self.path(DATA)).unwrap();
            assert!(data == shown, "the raw data file holds other bytes");
        }
    }

    pub fn len(&self) -> u64 {
        self.path(IMAGE).metadata().unwrap().len()
    }
}

/// A seeded generator.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        random::next(&mut self.0) % n
    }
}

/// Commands for `qemu-io` that do a few things to a disk of `size` bytes.
pub fn qemu_commands(case: &Case, size: u64, random: &mut Random) -> Vec<String> {
    let mut requests = Request::several(7, case, size, random);
    // It cannot give up clusters of version 2 over a backing file, nor write compressed ones then.
    let old = case.version == 2 && case.backing;
    requests.retain(|request| !(old && matches!(request.kind, Kind::Compressed(_))));
    requests.iter().flat_map(Request::commands).collect()
}

/// Does `work` with the opened image, and closes it.
pub fn with_image<T: 'static>(
    directory: &Directory,
    work: impl AsyncFnOnce(&Rc<Node>) -> T + 'static,
) -> T {
    let exec = Executor::new().unwrap();
    let opener = Opener::new(exec.clone());
    let path = directory.path(IMAGE);
    exec.block_on(async move {
        let options = ImageOptions {
            format: Some(Format::Qcow2),
            discard: true,
            ..ImageOptions::default()
        };
        let node = opener.open(&path, &options).await.unwrap();
        let result = work(&node).await;
        node.image().close().await.unwrap();
        result
    })
}

pub async fn read(node: &Rc<Node>, offset: u64, len: u64) -> Vec<u8> {
    let data = SgList::zeroed(len as usize);
    node.read(offset, data.clone()).await.unwrap();
    data.to_vec()
}

/// Writes, zeroes and discards as `seed` says; what the disk shows then is in `model`.
pub async fn scribble(node: &Rc<Node>, case: &Case, mut model: Vec<u8>, seed: u64) -> Vec<u8> {
    for request in Request::several(7, case, node.size(), &mut Random(seed)) {
        request.carry_out(node).await;
        let shown = &mut model[request.range()];
        match request.kind {
            Kind::Write(byte) | Kind::Compressed(byte) => shown.fill(byte),
            Kind::Zero { .. } => shown.fill(0),
            Kind::Discard => {
                let now = read(node, request.offset, request.len).await;
                let mut pairs = now.iter().zip(shown.iter());
                let kept = pairs.all(|(now, before)| *now == 0 || now == before);
                assert!(kept, "a discard shows something else");
                shown.copy_from_slice(&now);
            }
        }
    }
    node.flush().await.unwrap();
    let size = node.size();
    assert!(
        read(node, 0, size).await == model,
        "the disk shows other bytes"
    );
    model
}

/// We read what QEMU reads, write, and QEMU reads what we have written; snapshots stay; writing
/// the same again takes no more space.
pub fn we_go_on(directory: &Directory, case: &Case, seed: u64) {
    let snapshot = case.snapshot.then_some("one");
    let before = directory.content(None);
    let kept = snapshot.map(|name| directory.content(Some(name)));
    let written = with_image(directory, {
        let case = *case;
        async move |node| {
            let size = node.size();
            assert!(
                read(node, 0, size).await == before,
                "we read other bytes than QEMU"
            );
            scribble(node, &case, before, seed).await
        }
    });
    directory.check();
    assert!(
        directory.content(None) == written,
        "QEMU reads other bytes than we wrote"
    );
    directory.check_data(case, &written);
    assert!(
        kept == snapshot.map(|name| directory.content(Some(name))),
        "a snapshot has changed"
    );
    let len = directory.len();
    let again = with_image(directory, {
        let (case, written) = (*case, written.clone());
        async move |node| {
            let bytes = scribble(node, &case, written, seed).await;
            // Once more: what the first time had freed is there to be used.
            scribble(node, &case, bytes, seed).await
        }
    });
    assert!(again == directory.content(None));
    directory.check_data(case, &again);
    directory.check();
    // Freed clusters are used again only after a flush, so that the file may grow by a little.
    let room = case.cluster * 4 + (256 << 10);
    assert!(
        directory.len() <= len + room,
        "the file grows from {len} to {}",
        directory.len()
    );
}
