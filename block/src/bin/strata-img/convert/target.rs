//! The target of a conversion.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_block::{
    graph::{Format, Node, chain::ImageOptions},
    qcow2::Preallocation,
    storage::is_nbd_uri,
};

use super::{Checked, ConvertArgs};
use crate::{
    Failure, Tool,
    cache::CacheMode,
    create::{self, Wanted},
};

/// A target that is being written.
pub struct Target {
    pub node: Rc<Node>,
    /// The file that has been made for it.
    made: Option<PathBuf>,
}

impl Target {
    /// Nothing more is written. What was made for the target is removed; one that was there before
    /// stays as it has become.
    pub async fn give_up(self) {
        // The error that ended the copy says more than one about its remains would.
        let _ = self.node.close().await;
        if let Some(path) = self.made {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether the target is there already, whatever is done to make it.
pub fn is_device(path: &Path) -> bool {
    is_nbd_uri(path) || fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

impl ConvertArgs {
    /// Makes the target, unless it is there already, and opens it for writing `len` bytes.
    pub(super) async fn open_target(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        checked: &Checked,
    ) -> Result<Target, Failure> {
        let mut made = None;
        let is_there = self.existing || is_device(path) && self.target_format == Format::Raw;
        if !is_there {
            made = self.make_target(tool, path, len, checked).await?;
        }
        let opened = self.open(tool, path, len, checked.cache).await;
        if let (Err(_), Some(path)) = (&opened, &made) {
            let _ = fs::remove_file(path);
        }
        let node = opened?;
        Ok(Target { node, made })
    }

    async fn open(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        cache: CacheMode,
    ) -> Result<Rc<Node>, Failure> {
        let options = ImageOptions {
            format: Some(self.target_format),
            no_flush: cache.no_flush,
            direct: cache.direct,
            discard: true,
            ..ImageOptions::default()
        };
        let node = tool.opener.open(path, &tool.everywhere.of(options)).await?;
        if node.size() < len {
            return Err(Failure::new("output file is smaller than input file"));
        }
        Ok(node)
    }

    /// What the options ask for, if that goes together.
    pub(super) fn wanted(&self) -> Result<Wanted, String> {
        let target = create::Target {
            format: self.target_format,
            options: &self.options,
            backing: self.backing.clone(),
            backing_format: self.backing_format,
        };
        let wanted = target.wanted()?;
        let backing = wanted.image.backing.as_ref();
        if backing.is_some_and(|backing| backing.format.is_none()) {
            return Err("Use of backing file requires explicit backing format".into());
        }
        if self.compress && wanted.image.data_file.is_some() {
            return Err("Compression not supported with an external data file".into());
        }
        if self.compress && wanted.image.preallocation != Preallocation::Off {
            return Err("Compression and preallocation not supported at the same time".into());
        }
        Ok(wanted)
    }

    /// Makes the target's image; its file's name if that is new.
    async fn make_target(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        checked: &Checked,
    ) -> Result<Option<PathBuf>, Failure> {
        let durable = !checked.cache.no_flush;
        let mut image = checked.wanted.image.clone();
        image.size = len;
        let made = create::make(tool, path, self.target_format, image, durable).await;
        let is_new = made.map_err(|why| {
            let (file, format) = (path.display(), self.target_format);
            Failure::new(format!("{file}: error while converting {format}: {why}"))
        })?;
        Ok(is_new.then(|| path.to_owned()))
    }
}
