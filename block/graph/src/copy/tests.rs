//! Copies between images of every format, with every option, compared byte by byte.

use std::{
    cell::Cell,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::{Executor, mem::SgList, random};
use strata_format::{
    backing::Backing,
    extent::ExtentKind,
    qcow2::{CreateOptions, Preallocation},
    qed,
};
use strata_storage::error::IoError;

use super::{CopyError, CopyOptions, Event, Source, Untouched, copy};
use crate::{
    Format, NewImage, Node,
    chain::{ImageOptions, Opener},
    create_image,
};

const SIZE: u64 = 3 << 20;

const OPTIONS: CopyOptions = CopyOptions {
    requests: 8,
    any_order: false,
    sparse: 4096,
    compress: false,
    untouched: Untouched::Zeros,
    offload: false,
    salvage: false,
    speed: 0,
};

/// All layers of a disk.
fn whole(top: Rc<Node>) -> Source {
    Source { top, base: None }
}

/// A directory with images of [`SIZE`] bytes.
struct Directory {
    exec: Rc<Executor>,
    opener: Opener,
    dir: tempfile::TempDir,
}

impl Directory {
    fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Self>) -> F) {
        let exec = Executor::new().unwrap();
        let directory = Rc::new(Self {
            opener: Opener::new(exec.clone()),
            dir: tempfile::tempdir().unwrap(),
            exec: exec.clone(),
        });
        exec.block_on(test(directory));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes an image, with another one below it if that is named.
    async fn create(&self, name: &str, format: Format, below: Option<&str>) -> Rc<Node> {
        let backing = below.map(|name| Backing {
            name: name.into(),
            format: Some("qcow2".to_owned()),
        });
        let image = match format {
            Format::Raw => NewImage::Raw {
                size: SIZE,
                preallocation: Preallocation::Off,
            },
            Format::Qcow2 => NewImage::Qcow2(CreateOptions {
                size: SIZE,
                cluster_size: 4096,
                backing,
                ..Default::default()
            }),
            Format::Qed => NewImage::Qed(qed::CreateOptions {
                size: SIZE,
                backing,
                ..Default::default()
            }),
        };
        let path = self.path(name);
        create_image(&self.exec, &path, image).await.unwrap();
        self.open(&path, format, false).await
    }

    async fn open(&self, path: &Path, format: Format, read_only: bool) -> Rc<Node> {
        let options = ImageOptions {
            format: Some(format),
            read_only,
            discard: true,
            ..Default::default()
        };
        self.opener.open(path, &options).await.unwrap()
    }

    async fn copy(
        &self,
        sources: Vec<Source>,
        target: &Rc<Node>,
        options: CopyOptions,
    ) -> Result<(), CopyError> {
        copy(&self.exec, sources, target.clone(), options, |_| {}).await
    }
}

async fn read(node: &Rc<Node>) -> Vec<u8> {
    let data = SgList::zeroed(node.size() as usize);
    node.read(0, data.clone()).await.unwrap();
    data.to_vec()
}

/// Data that can be compressed and data that cannot, sectors of it and long runs, and zeros that
/// are written as such.
async fn scribble(node: &Rc<Node>, mut seed: u64) {
    let mut below = |limit: u64| random::next(&mut seed) % limit;
    for _ in 0..60 {
        let len = [512, 4096, 20_480, 200_704][below(4) as usize];
        let offset = below((SIZE - len) / 512) * 512;
        let byte = below(256) as u8;
        let bytes: Vec<u8> = match below(4) {
            0 => (0..len).map(|_| below(256) as u8).collect(),
            1 => vec![0; len as usize],
            2 => {
                node.write_zeroes(offset, len, true).await.unwrap();
                continue;
            }
            _ => vec![byte; len as usize],
        };
        node.write(offset, SgList::from_vec(bytes)).await.unwrap();
    }
}

/// A disk of two layers.
async fn two_layers(directory: &Directory) -> Rc<Node> {
    let base = directory.create("base", Format::Qcow2, None).await;
    scribble(&base, 1).await;
    base.image().close().await.unwrap();
    let top = directory.create("top", Format::Qcow2, Some("base")).await;
    scribble(&top, 2).await;
    top
}

#[test]
fn every_way_gives_the_same_bytes() {
    Directory::run(|directory| async move {
        let source = two_layers(&directory).await;
        let expected = read(&source).await;
        for format in [Format::Raw, Format::Qcow2, Format::Qed] {
            for (n, sparse) in [0, 512, 4096, 65536].into_iter().enumerate() {
                for untouched in [Untouched::Zeros, Untouched::Unknown] {
                    let options = CopyOptions {
                        requests: [1, 3, 8, 16][n],
                        any_order: n % 2 == 1,
                        sparse,
                        compress: format == Format::Qcow2 && n > 1 && untouched == Untouched::Zeros,
                        untouched,
                        offload: n % 2 == 0,
                        ..OPTIONS
                    };
                    let name = format!("{format}{sparse}{untouched:?}");
                    let target = directory.create(&name, format, None).await;
                    if untouched == Untouched::Unknown {
                        scribble(&target, 3).await;
                    }
                    let sources = vec![whole(source.clone())];
                    directory.copy(sources, &target, options).await.unwrap();
                    assert!(read(&target).await == expected, "{format} {options:?}");
                    target.image().close().await.unwrap();
                }
            }
        }
    });
}

#[test]
fn upper_layers_alone() {
    Directory::run(|directory| async move {
        let source = two_layers(&directory).await;
        let base = source.backing();
        for format in [Format::Qcow2, Format::Qed] {
            let name = format!("copy.{format}");
            let target = directory.create(&name, format, Some("base")).await;
            let options = CopyOptions {
                untouched: Untouched::Base(SIZE),
                ..OPTIONS
            };
            let sources = vec![Source {
                top: source.clone(),
                base: base.clone(),
            }];
            directory.copy(sources, &target, options).await.unwrap();
            assert!(read(&target).await == read(&source).await, "{format}");
            assert!(is_held(&source, 1 << 20).await == is_held(&target, 1 << 20).await);
            target.image().close().await.unwrap();
        }
    });
}

/// Whether the layer itself holds anything from `offset` on, where nothing was scribbled.
async fn is_held(node: &Node, offset: u64) -> bool {
    node.extent(offset, 512).await.unwrap().kind != ExtentKind::Unallocated
}

#[test]
fn several_disks_one_behind_the_other() {
    Directory::run(|directory| async move {
        let sizes = [512 * 3, 4096 * 5 + 512, 0, 512 * 21];
        let mut sources = Vec::new();
        let mut expected = Vec::new();
        for (n, size) in sizes.into_iter().enumerate() {
            let bytes = vec![n as u8 + 1; size];
            let path = directory.path(&n.to_string());
            std::fs::write(&path, &bytes).unwrap();
            expected.extend(bytes);
            if size > 0 {
                let node = directory.open(&path, Format::Raw, true).await;
                sources.push(whole(node));
            }
        }
        for compress in [false, true] {
            let name = format!("all{compress}");
            let target = directory.create(&name, Format::Qcow2, None).await;
            let options = CopyOptions {
                compress,
                ..OPTIONS
            };
            directory
                .copy(sources.clone(), &target, options)
                .await
                .unwrap();
            let mut found = read(&target).await;
            found.truncate(expected.len());
            assert!(found == expected);
        }
    });
}

#[test]
fn in_order_the_file_is_the_same_each_time() {
    Directory::run(|directory| async move {
        let source = two_layers(&directory).await;
        let mut files = Vec::new();
        for requests in [1, 8, 16] {
            let name = format!("copy{requests}");
            let target = directory.create(&name, Format::Qcow2, None).await;
            let options = CopyOptions {
                requests,
                compress: true,
                ..OPTIONS
            };
            let sources = vec![whole(source.clone())];
            directory.copy(sources, &target, options).await.unwrap();
            target.image().close().await.unwrap();
            files.push(std::fs::read(directory.path(&name)).unwrap());
        }
        assert!(files[0] == files[1] && files[0] == files[2]);
    });
}

#[test]
fn zeros_take_no_space() {
    Directory::run(|directory| async move {
        let path = directory.path("source");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        // Zeros that the file holds, and one sector of data.
        file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        file.write_all_at(&[1; 512], 2 << 20).unwrap();
        let source = directory.open(&path, Format::Raw, true).await;
        let target = directory.create("target", Format::Qcow2, None).await;
        let sources = vec![whole(source)];
        directory.copy(sources, &target, OPTIONS).await.unwrap();
        let before = target.extent(0, SIZE).await.unwrap();
        assert_eq!(
            (before.kind, before.len),
            (ExtentKind::Unallocated, 2 << 20)
        );
        let data = target.extent(2 << 20, SIZE).await.unwrap();
        assert!(matches!(data.kind, ExtentKind::Data { .. }));
        assert_eq!(data.len, 4096);
    });
}

#[test]
fn the_first_error_ends_the_copy_and_says_where() {
    Directory::run(|directory| async move {
        let source = two_layers(&directory).await;
        let target = directory.create("target", Format::Qcow2, None).await;
        target.image().close().await.unwrap();
        drop(target);
        let path = directory.path("target");
        let target = directory.open(&path, Format::Qcow2, true).await;
        for any_order in [false, true] {
            let options = CopyOptions {
                any_order,
                ..OPTIONS
            };
            let sources = vec![whole(source.clone())];
            let result = directory.copy(sources, &target, options).await;
            let Err(CopyError::Write { source: why, .. }) = result else {
                panic!("{result:?}");
            };
            assert!(matches!(why, IoError::ReadOnly));
        }
    });
}

#[test]
fn progress_gets_to_the_end() {
    Directory::run(|directory| async move {
        let source = two_layers(&directory).await;
        let target = directory.create("target", Format::Raw, None).await;
        let seen = Rc::new(Cell::new((0, 0)));
        let slot = seen.clone();
        let progress = move |event: Event<'_>| {
            let Event::Progress { done, total } = event else {
                panic!("nothing is lost: {event:?}");
            };
            assert!(done > slot.get().0 && done <= total);
            slot.set((done, total));
        };
        let sources = vec![whole(source)];
        copy(&directory.exec, sources, target, OPTIONS, progress)
            .await
            .unwrap();
        assert_eq!(seen.get(), (SIZE, SIZE));
    });
}
