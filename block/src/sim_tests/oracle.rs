//! What is said of images when nothing runs: by our own check, and by QEMU's tools.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use serde_json::json;

use crate::{
    exec::Executor,
    graph::{Format, Node},
    qcow2::{CheckReport, OpenOptions, Qcow2},
    qed::Qed,
    storage::{Content, SimFile, Storage},
};

/// The files of a disk, from the top down, as they were opened.
#[derive(Clone)]
pub struct Chain(pub Vec<(PathBuf, Format)>);

impl Chain {
    pub fn of(top: &Rc<Node>) -> Self {
        let layers = top.chain();
        Self(
            layers
                .map(|node| (node.path().to_owned(), node.format()))
                .collect(),
        )
    }

    pub fn top(&self) -> &(PathBuf, Format) {
        &self.0[0]
    }
}

/// Clusters that may be in use at the end of a file without having been written, at most.
const UNWRITTEN: usize = 2048;

pub type Contents = BTreeMap<PathBuf, Content>;

/// Leaked clusters of every qcow2 layer; panics where anything else is wrong.
pub fn check(files: &Contents, chain: &Chain) -> BTreeMap<PathBuf, u64> {
    let mut leaks = BTreeMap::new();
    for (path, format) in &chain.0 {
        let content = files.get(path);
        let content = content.unwrap_or_else(|| panic!("{} is gone", path.display()));
        let content = if *format == Format::Qcow2 {
            padded(content)
        } else {
            content.clone()
        };
        let file = Rc::new(SimFile::with_content(path, content, 0));
        match format {
            Format::Raw => {}
            Format::Qcow2 => {
                leaks.insert(path.clone(), check_qcow2(path, file));
            }
            Format::Qed => {
                Executor::new().unwrap().block_on(check_qed(file));
            }
        }
    }
    leaks
}

fn check_qcow2(path: &Path, file: Rc<SimFile>) -> u64 {
    let (report, _, dirty) = report_of(file);
    // Of an image that is marked dirty only the mapping is trusted.
    if !dirty {
        let found = (report.corruptions, report.check_errors);
        assert_eq!(found, (0, 0), "{}: {:?}", path.display(), report.lines);
    }
    report.leaks
}

/// What our check says, the version, and whether the image is marked dirty.
fn report_of(file: Rc<SimFile>) -> (CheckReport, u32, bool) {
    let exec = Executor::new().unwrap();
    exec.block_on(async move {
        let options = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let image = Qcow2::open(Storage::Sim(file), options).await.unwrap();
        let report = image.check().await.unwrap();
        (report, image.version(), image.is_dirty())
    })
}

/// Whether an image of version 2 has entries without the COPIED flag although nobody shares what
/// they name; panics where more is wrong.
pub fn lacks_only_flags(path: &Path, content: &Content) -> bool {
    let file = Rc::new(SimFile::with_content(path, padded(content), 0));
    let (report, version, _) = report_of(file);
    if version > 2 || report.corruptions == 0 {
        return false;
    }
    let errors = report.lines.iter().filter(|line| line.starts_with("ERROR"));
    for line in errors {
        let missing = line.starts_with("ERROR OFLAG_COPIED") && line.ends_with("refcount=1");
        assert!(missing, "{}: {line}", path.display());
    }
    true
}

/// With more clusters at its end: a crash may leave references to some that never got into the file.
fn padded(content: &Content) -> Content {
    let mut content = content.clone();
    let cluster = 1 << content.first_sector()[23];
    content.grow_by(UNWRITTEN * cluster);
    content
}

/// Only clusters may be wrong that nothing names: whoever opens the image next gives them back.
async fn check_qed(file: Rc<SimFile>) {
    let file = Storage::Sim(file);
    let path = file.path().to_owned();
    let image = Qed::open(file.clone(), true, 1 << 16).await.unwrap();
    let report = image.check().await.unwrap();
    let found = (report.corruptions, report.check_errors);
    assert_eq!(found, (0, 0), "{}: {:?}", path.display(), report.lines);
    Qed::open(file, false, 1 << 16).await.unwrap();
}

/// Has QEMU's tools check every layer (leaks are allowed) and compare the disk with `seen`.
pub fn check_with_qemu(files: &Contents, chain: &Chain, seen: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let host = |path: &Path| folder.path().join(path.file_name().unwrap());
    for (path, format) in &chain.0 {
        std::fs::write(host(path), files[path].to_vec()).unwrap();
        if *format == Format::Raw {
            continue;
        }
        let image = json!({
            "driver": format.name(),
            "file": {"driver": "file", "filename": host(path)},
            "backing": null,
        });
        let image = format!("json:{image}");
        if is_dirty(&files[path], *format) {
            // Refcounts were written lazily: they are counted anew before the image is used.
            qemu_img(&["check", "-r", "all", &image], &[0]);
        }
        // 3 says that there are leaks.
        qemu_img(&["check", &image], &[0, 3]);
    }
    let mut image = serde_json::Value::Null;
    for (path, format) in chain.0.iter().rev() {
        let below = image;
        image = json!({
            "driver": format.name(),
            "file": {"driver": "file", "filename": host(path)},
        });
        if *format != Format::Raw {
            image["backing"] = below;
        }
    }
    let raw = folder.path().join("seen");
    std::fs::write(&raw, seen).unwrap();
    let (image, raw) = (format!("json:{image}"), raw.display().to_string());
    qemu_img(&["compare", "-F", "raw", &image, &raw], &[0]);
}

/// Has QEMU's tools compare what a snapshot of a layer keeps with `seen`.
pub fn check_snapshot_with_qemu(image: &Content, name: &str, seen: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let (file, raw) = (folder.path().join("image"), folder.path().join("raw"));
    std::fs::write(&file, image.to_vec()).unwrap();
    let image = json!({
        "driver": "qcow2",
        "file": {"driver": "file", "filename": file},
        "backing": null,
    });
    let (image, name) = (format!("json:{image}"), format!("snapshot.name={name}"));
    let to = raw.to_str().unwrap();
    qemu_img(&["convert", "-l", &name, "-O", "raw", &image, to], &[0]);
    let shown = std::fs::read(&raw).unwrap();
    // The size is that of now.
    let len = shown.len().min(seen.len());
    let same = shown[..len] == seen[..len];
    assert!(same, "QEMU shows something else in '{name}'");
}

/// Whether a qcow2 image is marked dirty, in its header's first incompatible feature.
fn is_dirty(content: &Content, format: Format) -> bool {
    let header = content.first_sector();
    let version = &header[4..8];
    format == Format::Qcow2 && *version == [0, 0, 0, 3] && header[79] & 1 != 0
}

fn qemu_img(args: &[&str], expected: &[i32]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| expected.contains(&code)),
        "qemu-img {args:?}: {code:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
