//! What is said of images when nothing runs: by our own check, and by QEMU's tools.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use serde_json::json;
use strata_exec::{Executor, mem::SgList};
use strata_format::{check::CheckReport, qcow2::Qcow2, qed::Qed};
use strata_graph::{
    Format, Node,
    chain::{ImageOptions, Opener},
};
use strata_storage::{Content, Files, SimDirectory, SimFile, Storage};

use super::plan::data_path;

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
        match format {
            Format::Raw => {}
            Format::Qcow2 => {
                leaks.insert(path.clone(), check_qcow2(files, path));
            }
            Format::Qed => {
                let file = Rc::new(SimFile::with_content(path, content.clone(), 0));
                Executor::new().unwrap().block_on(check_qed(file));
            }
        }
    }
    leaks
}

fn check_qcow2(files: &Contents, path: &Path) -> u64 {
    let (report, _, dirty) = report_of(files, path);
    // Of an image that is marked dirty only the mapping is trusted.
    if !dirty {
        let found = (report.corruptions, report.check_errors);
        assert_eq!(found, (0, 0), "{}: {:?}", path.display(), report.lines);
    }
    report.leaks
}

/// What our check says, the version, and whether the image is marked dirty.
fn report_of(files: &Contents, path: &Path) -> (CheckReport, u32, bool) {
    let mut files = files.clone();
    padded(files.get_mut(path).unwrap());
    let exec = Executor::new().unwrap();
    let directory = Files::Sim(SimDirectory::new(files, 0));
    let opener = Opener::among(directory, 1 << 20, exec.clone());
    let path = path.to_owned();
    exec.block_on(async move {
        let options = ImageOptions {
            format: Some(Format::Qcow2),
            read_only: true,
            ..ImageOptions::default()
        };
        let node = opener.open_layer(&path, &options).await.unwrap();
        let image = node.image().as_qcow2().unwrap();
        check_raw_data(&node, image).await;
        let report = image.check().await.unwrap();
        (report, image.version(), image.is_dirty())
    })
}

/// A raw external data file shows by itself what the image shows.
async fn check_raw_data(node: &Rc<Node>, image: &Qcow2) {
    if !image.data_file().is_some_and(|data| data.raw) {
        return;
    }
    let data = image.data_storage();
    let len = usize::try_from(data.len().min(node.size())).unwrap();
    let mut raw = data.read_vec(0, len).await.unwrap();
    raw.resize(usize::try_from(node.size()).unwrap(), 0);
    let shown = SgList::zeroed(raw.len());
    node.read(0, shown.clone()).await.unwrap();
    let path = node.path().display();
    assert!(shown.to_vec() == raw, "{path}: its raw data file differs");
}

/// Whether an image of version 2 has entries without the COPIED flag although nobody shares what
/// they name; panics where more is wrong.
pub fn lacks_only_flags(files: &Contents, path: &Path) -> bool {
    let (report, version, _) = report_of(files, path);
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

/// Appends clusters: a crash may leave references to some that never got into the file.
fn padded(content: &mut Content) {
    let cluster = 1 << content.first_sector()[23];
    content.grow_by(UNWRITTEN * cluster);
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

/// A QED image in which something has been given a place since `before`, when it was closed, says
/// that it has to be checked.
pub fn check_mark(before: &Contents, after: &Contents, (path, format): &(PathBuf, Format)) {
    // The features are at byte 16, and this is the second one's bit.
    if *format != Format::Qed || after[path].first_sector()[16] & 2 != 0 {
        return;
    }
    let named = |content: &Content| {
        let file = Rc::new(SimFile::with_content(path, content.clone(), 0));
        Executor::new().unwrap().block_on(async move {
            let image = Qed::open(Storage::Sim(file), true, 1 << 16).await.unwrap();
            image.check().await.unwrap().allocated_clusters
        })
    };
    let (before, after) = (named(&before[path]), named(&after[path]));
    assert!(after <= before, "{}: the mark is missing", path.display());
}

/// Has QEMU's tools check every layer (leaks are allowed) and compare the disk with `seen`.
pub fn check_with_qemu(files: &Contents, chain: &Chain, seen: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let host = |path: &Path| directory.path().join(path.file_name().unwrap());
    // Whatever names headers give.
    let layer = |path: &Path, format: Format| {
        let mut image = json!({
            "driver": format.name(),
            "file": {"driver": "file", "filename": host(path)},
        });
        let data = data_path(path);
        if files.contains_key(&data) {
            image["data-file"] = json!({"driver": "file", "filename": host(&data)});
        }
        image
    };
    for (path, format) in &chain.0 {
        for file in [path, &data_path(path)] {
            if let Some(content) = files.get(file) {
                std::fs::write(host(file), content.to_vec()).unwrap();
            }
        }
        if *format == Format::Raw {
            continue;
        }
        let mut image = layer(path, *format);
        image["backing"] = serde_json::Value::Null;
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
        image = layer(path, *format);
        if *format != Format::Raw {
            image["backing"] = below;
        }
    }
    let raw = directory.path().join("seen");
    std::fs::write(&raw, seen).unwrap();
    let (image, raw) = (format!("json:{image}"), raw.display().to_string());
    qemu_img(&["compare", "-F", "raw", &image, &raw], &[0]);
}

/// Has QEMU's tools compare what a snapshot of a layer keeps with `seen`.
pub fn check_snapshot_with_qemu(image: &Content, name: &str, seen: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let (file, raw) = (directory.path().join("image"), directory.path().join("raw"));
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
