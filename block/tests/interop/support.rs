//! Folders with images, and what both sides do to them.

use std::{path::PathBuf, process::Command, rc::Rc};

use strata_block::{
    exec::Executor,
    graph::{
        Format, Node,
        chain::{ImageOptions, Opener},
    },
    mem::SgList,
    random,
};

use crate::matrix::Case;

/// The image's name.
pub const IMAGE: &str = "image.qcow2";

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program that has to succeed, and returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        let output = command.args(args).current_dir(self.0.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn strata_img(&self, args: &[&str]) -> String {
        self.run(env!("CARGO_BIN_EXE_strata-img"), args)
    }

    pub fn qemu_io(&self, commands: &[String]) {
        let mut args = vec!["-f", "qcow2"];
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
            std::fs::write(self.path("base.raw"), bytes).unwrap();
        }
    }

    /// What QEMU sees on the disk, or in a snapshot of it.
    pub fn content(&self, snapshot: Option<&str>) -> Vec<u8> {
        let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
        args.extend(snapshot.iter().flat_map(|name| ["-l", name]));
        args.extend([IMAGE, "content.raw"]);
        self.run("qemu-img", &args);
        std::fs::read(self.path("content.raw")).unwrap()
    }

    /// QEMU's check finds nothing at all, not even a leak; nor does ours.
    pub fn check(&self) {
        self.run("qemu-img", &["check", "-f", "qcow2", IMAGE]);
        self.strata_img(&["check", "-f", "qcow2", IMAGE]);
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

    /// A range of whole sectors on a disk of `size` bytes, of about `cluster` bytes.
    fn range(&mut self, size: u64, cluster: u64) -> (u64, u64) {
        let start = self.below(size / 512) * 512;
        let most = (cluster * 2).max(64 << 10).min(size - start);
        (start, (self.below(most / 512) + 1) * 512)
    }
}

/// Commands for `qemu-io` that write, zero and discard.
pub fn qemu_commands(case: &Case, random: &mut Random) -> Vec<String> {
    let command = |_| {
        let (offset, len) = random.range(case.size(), case.cluster);
        match random.below(5) {
            0 => format!("write -z {offset} {len}"),
            1 => format!("discard {offset} {len}"),
            _ => format!("write -P {} {offset} {len}", 1 + random.below(255)),
        }
    };
    (0..6).map(command).collect()
}

/// Does `work` with the opened image, and closes it.
pub fn with_image<T: 'static>(
    folder: &Folder,
    work: impl AsyncFnOnce(&Rc<Node>) -> T + 'static,
) -> T {
    let exec = Executor::new().unwrap();
    let opener = Opener::new(exec.clone());
    let path = folder.path(IMAGE);
    exec.block_on(async move {
        let options = ImageOptions {
            format: Some(Format::Qcow2),
            discard: true,
            ..ImageOptions::default()
        };
        let node = opener.open(&path, &options).await.unwrap();
        let result = work(&node).await;
        node.close().await.unwrap();
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
    let mut random = Random(seed);
    for _ in 0..6 {
        let (offset, len) = random.range(case.size(), case.cluster);
        let range = offset as usize..(offset + len) as usize;
        match random.below(5) {
            0 => {
                node.write_zeroes(offset, len, random.below(2) == 0)
                    .await
                    .unwrap();
                model[range].fill(0);
            }
            1 => {
                node.discard(offset, len).await.unwrap();
                let now = read(node, offset, len).await;
                let before = &model[range.clone()];
                let kept = now
                    .iter()
                    .zip(before)
                    .all(|(now, before)| *now == 0 || now == before);
                assert!(kept, "a discard shows something else");
                model[range].copy_from_slice(&now);
            }
            _ => {
                let byte = 1 + random.below(255) as u8;
                let data = SgList::from_vec(vec![byte; len as usize]);
                node.write(offset, data).await.unwrap();
                model[range].fill(byte);
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
pub fn we_go_on(folder: &Folder, case: &Case, seed: u64) {
    let snapshot = case.snapshot.then_some("one");
    let before = folder.content(None);
    let kept = snapshot.map(|name| folder.content(Some(name)));
    let written = with_image(folder, {
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
    folder.check();
    assert!(
        folder.content(None) == written,
        "QEMU reads other bytes than we wrote"
    );
    assert!(
        kept == snapshot.map(|name| folder.content(Some(name))),
        "a snapshot has changed"
    );
    let len = folder.len();
    let again = with_image(folder, {
        let (case, written) = (*case, written.clone());
        async move |node| {
            let bytes = scribble(node, &case, written, seed).await;
            // Once more: what the first time had freed is there to be used.
            scribble(node, &case, bytes, seed).await
        }
    });
    assert!(again == folder.content(None));
    folder.check();
    // Freed clusters are used again only after a flush, so that the file may grow by a little.
    let room = case.cluster * 4 + (256 << 10);
    assert!(
        folder.len() <= len + room,
        "the file grows from {len} to {}",
        folder.len()
    );
}
