//! [`Kept`]: files that an image which is made, or written over, must leave alone.

use std::{io, path::Path, rc::Rc};

use strata_format::qcow2::DataFile;
use strata_storage::{
    Identity, Storage,
    error::{Error, Result},
    is_nbd_uri,
};

use super::{
    Format, Node,
    chain::{ImageOptions, MAX_LAYERS, Opener, resolve, resolve_data_file},
};

/// Files that a command needs as they are: those of its sources, and those of the chain that a new
/// image is put on. Layers that are open stay so, with their locks, as long as this lives.
#[derive(Default)]
pub struct Kept {
    files: Vec<(Identity, &'static str)>,
    open: Vec<Rc<Node>>,
}

impl Kept {
    /// Keeps the files of `top` and all layers below it. Messages call them `what`.
    ///
    /// # Errors
    /// The host cannot say which files they are.
    pub fn keep(&mut self, what: &'static str, top: &Rc<Node>) -> Result<()> {
        for node in top.chain() {
            for file in [node.image().storage(), node.image().data_storage()] {
                self.files.push((identity(file)?, what));
            }
        }
        self.open.push(top.clone());
        Ok(())
    }

    /// Keeps the file at `path` and those that its header and the ones below name, as far as they
    /// can be found: for a name that is to be used without a look at what it leads to. Others may
    /// be writing there; servers are not asked.
    pub async fn keep_named(
        &mut self,
        what: &'static str,
        opener: &Opener,
        path: &Path,
        format: Option<Format>,
    ) {
        let (mut path, mut format) = (path.to_owned(), format);
        for _ in 0..MAX_LAYERS {
            let Ok(identity) = opener.files().identity(&path) else {
                return;
            };
            self.files.push((identity, what));
            let options = ImageOptions {
                format,
                read_only: true,
                force_share: true,
                header_only: true,
                ..ImageOptions::default()
            };
            if is_nbd_uri(&path) {
                return;
            }
            let Ok(node) = opener.open_layer(&path, &options).await else {
                return;
            };
            if let Ok(Some(data)) = DataFile::of(node.image().storage()).await
                && let Ok(data) = resolve_data_file(&path, &data.name)
                && let Ok(identity) = opener.files().identity(&data)
            {
                self.files.push((identity, what));
            }
            let Some(backing) = node.image().backing_name() else {
                return;
            };
            let Ok(below) = resolve(&path, &backing) else {
                return;
            };
            format = backing.format.and_then(|name| name.parse().ok());
            path = below;
        }
    }

    /// Refuses to write `file` if it is one of these.
    ///
    /// # Errors
    /// It is one; the host cannot say which file it is.
    pub fn check(&self, file: &Storage) -> Result<()> {
        self.check_identity(file.path(), &identity(file)?)
    }

    /// As [`Kept::check`], of what `path` leads to now, which has still to be opened. What cannot
    /// be found is none of these.
    ///
    /// # Errors
    /// It is one.
    pub fn check_path(&self, path: &Path) -> Result<()> {
        let identity = Identity::of(path);
        identity.map_or(Ok(()), |identity| self.check_identity(path, &identity))
    }

    fn check_identity(&self, path: &Path, identity: &Identity) -> Result<()> {
        match self.files.iter().find(|(kept, _)| kept == identity) {
            None => Ok(()),
            Some((_, what)) => Err(Error::Image {
                file: path.to_owned(),
                why: format!("is part of {what} itself: nothing was written; use another name"),
            }),
        }
    }
}

fn identity(file: &Storage) -> Result<Identity> {
    file.identity().map_err(|source: io::Error| Error::File {
        what: "look at",
        file: file.path().to_owned(),
        source,
    })
}
