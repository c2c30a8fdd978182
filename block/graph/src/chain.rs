//! Opening a chain: an image, and every image below it that the headers name.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use strata_exec::Executor;
use strata_format::{
    backing::Backing,
    qcow2::{self, Damaged, OpenOptions, Qcow2},
    qed::Qed,
};
use strata_storage::{
    Aio, DEFAULT_RECONNECT_DELAY, FileOptions, Files, Identity, Storage,
    error::{Error, Result},
    is_nbd_uri,
};

use super::{Format, Name, Names, Node, data_file, foreign, policy, spec::ImageSpec};

mod temporary;

/// Layers in a chain at most: bounds what a made-up chain can cost.
pub const MAX_LAYERS: usize = 1024;

/// Bytes of tables that a layer keeps in memory at most.
const CACHE_BYTES: usize = 8 << 20;

/// How an image is opened.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// The image's format. Guessed if absent, but only where nothing will be written.
    pub format: Option<Format>,
    /// Writes are refused. Layers below the top are always opened so.
    pub read_only: bool,
    /// Flushes are ignored (`cache=unsafe`).
    pub no_flush: bool,
    /// No layer is locked: others may write meanwhile (`-U`). Only with `read_only`.
    pub force_share: bool,
    /// Its files, and those of the layers below, are used past the host's page cache.
    pub direct: bool,
    /// What carries out the calls for its files, and for those of the layers below.
    pub aio: Aio,
    /// Only what headers say is wanted: neither are data files opened, nor keys needed. Only with
    /// `read_only`.
    pub header_only: bool,
    /// The file can be written although the image is read-only: for a repair.
    pub repair: bool,
    /// Tables whose absence a check reports need not be there. Only with `read_only`.
    pub check: bool,
    /// Discarded clusters are returned to the host.
    pub discard: bool,
    /// The external data file, in the place of the one that the header of the image names. That of
    /// layers below is always their headers'.
    pub data_file: Option<PathBuf>,
    /// What its header names below it is not opened (`"backing": null`): something else puts the
    /// image on another one.
    pub alone: bool,
    /// The node's name; made up if absent.
    pub node_name: Option<String>,
    /// Format of backing files whose header gives none.
    pub backing_format: Option<Format>,
    /// Directories in which backing files may lie besides that of the image that names them. If
    /// absent, every place is allowed that is ordinary for a disk image (`docs/BACKING-FILES.md`).
    pub backing_folders: Option<Vec<PathBuf>>,
    /// How long requests wait for an NBD server that is gone; [`DEFAULT_RECONNECT_DELAY`] if
    /// absent.
    pub reconnect_delay: Option<Duration>,
}

impl ImageOptions {
    pub(super) fn reconnect_delay(&self) -> Duration {
        self.reconnect_delay.unwrap_or(DEFAULT_RECONNECT_DELAY)
    }
}

/// Opens images and names the nodes that they become.
pub struct Opener {
    exec: Rc<Executor>,
    files: Files,
    /// Bytes of tables that a layer keeps in memory at most.
    cache_bytes: usize,
    names: Names,
}

impl Opener {
    /// An opener for graphs on `exec`'s thread.
    pub fn new(exec: Rc<Executor>) -> Self {
        Self::among(Files::Host, CACHE_BYTES, exec)
    }

    /// An opener of images among `files`, with at most `cache_bytes` of tables of each in memory.
    pub fn among(files: Files, cache_bytes: usize, exec: Rc<Executor>) -> Self {
        Self {
            exec,
            files,
            cache_bytes,
            names: Names::default(),
        }
    }

    /// The names of the nodes that it makes, of the disks on top of them, and of what else commands
    /// refer to.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Where images are.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Opens `path` and every layer below it.
    ///
    /// # Errors
    /// One line on the first layer that cannot be used; nothing has been changed.
    pub async fn open(&self, path: &Path, options: &ImageOptions) -> Result<Rc<Node>> {
        let top = self.open_layer(path, options).await?;
        self.open_below(&top, options).await?;
        Ok(top)
    }

    /// Opens every layer below `top`, which has been opened alone, for reading.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub async fn open_below(&self, top: &Rc<Node>, options: &ImageOptions) -> Result<()> {
        if options.alone {
            return Ok(());
        }
        let mut below = ImageOptions {
            format: None,
            read_only: true,
            data_file: None,
            node_name: None,
            ..options.clone()
        };
        let mut chain = vec![top.image().storage().identity().ok()];
        let mut upper = top.clone();
        while let Some(backing) = upper.image().backing_name() {
            let path = resolve(upper.path(), &backing)?;
            self.refuse_loop(&chain, upper.path(), &path)?;
            check_policy(upper.path(), &path, &backing, options)?;
            below.format = Some(
                self.backing_format(&upper, &path, &backing, options)
                    .await?,
            );
            let node = self.open_layer(&path, &below).await.map_err(|error| {
                let why = format!("its backing file cannot be used: {error}");
                Error::Image {
                    file: upper.path().to_owned(),
                    why,
                }
            })?;
            upper.set_backing_node(Some(node.clone()));
            chain.push(node.image().storage().identity().ok());
            upper = node;
        }
        Ok(())
    }

    /// Opens one image without looking at what its header names below it.
    ///
    /// # Errors
    /// One line on why the image cannot be used; nothing has been changed.
    pub async fn open_layer(&self, path: &Path, options: &ImageOptions) -> Result<Rc<Node>> {
        let name = match &options.node_name {
            None => self.names.made_up(),
            Some(name) => self.names.layer(name).map_err(|error| Error::Image {
                file: path.to_owned(),
                why: error.to_string(),
            })?,
        };
        self.open_layer_as(name, path, options).await
    }

    /// As [`Opener::open_layer`], with a name that has been reserved.
    pub async fn open_layer_as(
        &self,
        name: Name,
        path: &Path,
        options: &ImageOptions,
    ) -> Result<Rc<Node>> {
        let ImageOptions {
            read_only,
            no_flush,
            force_share,
            ..
        } = *options;
        let file_options = FileOptions {
            read_only: read_only && !options.repair,
            no_flush,
            force_share,
            direct: options.direct,
            aio: options.aio,
        };
        if force_share && !file_options.read_only {
            return Err(Error::Image {
                file: path.to_owned(),
                why: "force-share=on can only be used with read-only images".to_owned(),
            });
        }
        let file = self
            .files
            .open(&self.exec, path, file_options, options.reconnect_delay())
            .await?;
        let looks_like = Format::looks_like(&file).await?;
        let format = match options.format {
            Some(format) => format,
            None if read_only && !options.repair => {
                foreign::refuse(&file).await?;
                looks_like
            }
            None => return Err(unsaid_format(path, looks_like)),
        };
        check_file(&file, format, looks_like).map_err(|why| Error::Image {
            file: path.to_owned(),
            why,
        })?;
        let node = match format {
            Format::Raw => Node::raw(name, file),
            Format::Qcow2 => {
                let discard = options.discard;
                let open = OpenOptions {
                    read_only,
                    cache_bytes: self.cache_bytes,
                    discard,
                    damaged: match (options.repair, options.check) {
                        (true, _) => Damaged::Repaired,
                        (false, true) => Damaged::Reported,
                        (false, false) => Damaged::Refused,
                    },
                };
                let image = if options.header_only {
                    Qcow2::open_header(file).await?
                } else {
                    let files = &self.files;
                    match data_file::open(&self.exec, files, &file, file_options, options).await? {
                        Some(data) => Qcow2::open_with_data(file, data, open).await?,
                        None => Qcow2::open(file, open).await?,
                    }
                };
                Node::qcow2(name, path, !read_only, image)
            }
            Format::Qed => {
                let image = Qed::open(file, read_only, self.cache_bytes).await?;
                Node::qed(name, path, !read_only, image)
            }
        };
        Ok(Rc::new(node))
    }

    fn refuse_loop(&self, chain: &[Option<Identity>], upper: &Path, path: &Path) -> Result<()> {
        let refused = |why| {
            Err(Error::Image {
                file: upper.to_owned(),
                why,
            })
        };
        if chain.len() >= MAX_LAYERS {
            return refused(format!("the chain has more than {MAX_LAYERS} layers"));
        }
        let below = self.files.identity(path).ok();
        if below.is_some() && chain.contains(&below) {
            return Err(Error::Loop {
                file: path.to_owned(),
            });
        }
        Ok(())
    }

    async fn backing_format(
        &self,
        upper: &Node,
        path: &Path,
        backing: &Backing,
        options: &ImageOptions,
    ) -> Result<Format> {
        let refused = |why| Error::Image {
            file: upper.path().to_owned(),
            why,
        };
        if let Some(format) = &backing.format {
            return format
                .parse()
                .map_err(|error| refused(format!("its backing file: {error}")));
        }
        let named = ImageSpec::from_name(Path::new(&backing.name));
        let format = named.ok().and_then(|spec| spec.format);
        if let Some(format) = format.or(options.backing_format) {
            return Ok(format);
        }
        // Only for the hint: whatever others do with the file.
        let file = FileOptions {
            read_only: true,
            force_share: true,
            ..Default::default()
        };
        let file = self
            .files
            .open(&self.exec, path, file, options.reconnect_delay())
            .await
            .map_err(|error| refused(format!("its backing file cannot be used: {error}")))?;
        let looks_like = Format::looks_like(&file).await?;
        // A QED header has a mark for raw only, so one without it says: look, it is not raw.
        if upper.format() == Format::Qed && looks_like != Format::Raw {
            return Ok(looks_like);
        }
        Err(refused(format!(
            "its header names the backing file '{}' without a format, and a format is never \
             guessed; it looks like {looks_like}: say backing-format={looks_like}, or write it \
             into the header with 'strata-img rebase -u -b {} -F {looks_like}'",
            backing.name.display(),
            backing.name.display()
        )))
    }
}

/// A format that has to be said, and was not.
pub(super) fn unsaid_format(path: &Path, looks_like: Format) -> Error {
    let why = format!(
        "the format is not given, and is never guessed for a disk that can be written; it looks \
         like {looks_like}: say format={looks_like}"
    );
    Error::Image {
        file: path.to_owned(),
        why,
    }
}

/// Whether the file can be an image of `format` at all, in words that say more than its parser can.
fn check_file(
    file: &Storage,
    format: Format,
    looks_like: Format,
) -> std::result::Result<(), String> {
    let len = file.len();
    match format {
        Format::Qcow2 | Format::Qed if file.is_empty() => Err("is empty".to_owned()),
        Format::Qcow2 | Format::Qed if looks_like != format => Err(format!(
            "is not a {format} image; it looks like {looks_like}"
        )),
        Format::Qcow2 if len < qcow2::SHORTEST_HEADER => Err(format!(
            "is cut off: it has {len} bytes, less than a qcow2 header"
        )),
        _ => Ok(()),
    }
}

/// The path (or URI) of a backing file: relative names are relative to the directory of the image
/// that names them, not to the working directory.
///
/// # Errors
/// The name is neither one of a file nor an NBD URI (`json:` or another protocol).
pub fn resolve(upper: &Path, backing: &Backing) -> Result<PathBuf> {
    resolve_name(upper, "backing file", &backing.name)
}

/// The path of an external data file, as [`resolve`] finds that of a backing file.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn resolve_data_file(upper: &Path, name: &OsStr) -> Result<PathBuf> {
    resolve_name(upper, "data file", name)
}

/// Refuses a name for a new header that means a file here but a protocol to QEMU, which could not
/// open the image then: one with a colon before its first slash.
///
/// # Errors
/// It is such a name; how to write it.
pub fn check_portable(name: &OsStr) -> std::result::Result<(), String> {
    let text = name.to_string_lossy();
    let before_slash = text.split('/').next().unwrap_or_default();
    let Some((scheme, _)) = before_slash.split_once(':') else {
        return Ok(());
    };
    if ["file", "json"].contains(&scheme)
        || resolve_name(Path::new(""), "", name).is_err()
        || is_nbd_uri(Path::new(name))
    {
        return Ok(());
    }
    Err(format!(
        "QEMU takes '{scheme}:' in '{text}' for a protocol: write './{text}'"
    ))
}

/// As [`resolve`], for any file that the image `upper` names; messages call it `what`.
fn resolve_name(upper: &Path, what: &str, name: &OsStr) -> Result<PathBuf> {
    let text = name.to_string_lossy();
    if is_nbd_uri(Path::new(name)) {
        return Ok(PathBuf::from(name));
    }
    if text.starts_with("json:") {
        return resolve_json(upper, what, name);
    }
    let protocol = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if protocol && !text.starts_with("file:") {
        let why = format!("its {what} '{text}' is not a plain file");
        return Err(Error::Image {
            file: upper.to_owned(),
            why,
        });
    }
    let plain = name.as_bytes().strip_prefix(b"file:");
    let name = plain.map_or(name, OsStr::from_bytes);
    if is_nbd_uri(upper) && !Path::new(name).is_absolute() {
        let why = format!("its {what} '{text}' is relative, and there is no directory around");
        return Err(Error::Image {
            file: upper.to_owned(),
            why,
        });
    }
    Ok(upper.parent().unwrap_or(Path::new("")).join(name))
}

/// The path or URI in options of block drivers, which is relative to the working directory as QEMU
/// has it. They may say the format, too, but nothing of how the file is opened.
fn resolve_json(upper: &Path, what: &str, name: &OsStr) -> Result<PathBuf> {
    let refused = |why: String| Error::Image {
        file: upper.to_owned(),
        why: format!("its {what} '{}' cannot be used: {why}", name.display()),
    };
    let spec = ImageSpec::from_name(Path::new(name)).map_err(refused)?;
    if spec.data_file.is_some() {
        return Err(refused("it names a data file".into()));
    }
    if spec.alone {
        return Err(refused("it leaves away what lies below".into()));
    }
    Ok(spec.path)
}

/// Whether the image `upper`, opened with `options`, may name `backing` in its header: where not,
/// it would not open again (`docs/BACKING-FILES.md`). What is not there is not looked at.
///
/// # Errors
/// Why not, and which option would allow it; as [`resolve`].
pub fn check_allowed(upper: &Path, backing: &Backing, options: &ImageOptions) -> Result<()> {
    check_policy(upper, &resolve(upper, backing)?, backing, options)
}

/// Refuses a backing file that an image may not name.
pub(super) fn check_policy(
    upper: &Path,
    path: &Path,
    backing: &Backing,
    options: &ImageOptions,
) -> Result<()> {
    let named = backing.format.as_ref().and_then(|name| name.parse().ok());
    let format = named.or(options.backing_format);
    let directories = options.backing_folders.as_deref();
    policy::check(upper, "backing file", path, format, directories).map_err(|why| Error::Image {
        file: upper.to_owned(),
        why,
    })
}
