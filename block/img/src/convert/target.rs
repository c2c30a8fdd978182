//! The target of a conversion.

use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_format::qcow2::Preallocation;
use strata_graph::{
    Format, Kept, Node,
    chain::{self, ImageOptions},
};

use super::{Checked, ConvertArgs};
use crate::{
    Failure, Reading, Tool,
    create::{self, Wanted},
    everywhere,
    open_error::OpenError,
};

/// A target that is being written.
pub struct Target {
    pub node: Rc<Node>,
    /// It has been made, and shows nothing but zeros.
    pub is_blank: bool,
    /// The file that has been made for it.
    made: Option<PathBuf>,
}

impl Target {
    /// Nothing more is written. What was made for the target is removed; one that was there before
    /// stays as it has become.
    pub async fn give_up(self) {
        // The error that ended the copy says more than one about its remains would.
        let _ = self.node.image().close().await;
        if let Some(path) = self.made {
            let _ = fs::remove_file(path);
        }
    }
}

impl ConvertArgs {
    /// The files that the target must not be: those of the sources, and those that it is to lie on.
    pub(super) async fn kept(
        &self,
        tool: &Tool,
        target: &Path,
        checked: &Checked,
        tops: &[Rc<Node>],
    ) -> Result<Kept, Failure> {
        let mut kept = Kept::default();
        for top in tops {
            kept.keep("a source of the copy", top)?;
        }
        let wanted = &checked.wanted.image;
        if let (Some(backing), false) = (&wanted.backing, self.existing) {
            create::check_allowed(tool, target, backing)
                .map_err(|why| self.failed_to_make(target, &why))?;
            let path = chain::resolve(target, backing)?;
            let reading = Reading {
                format: checked.wanted.backing_format(),
                force_share: false,
                direct: false,
            };
            let reading = tool.everywhere.of(reading.options());
            let below = tool.opener.open(&path, &reading).await;
            let below = below.map_err(|error| self.failed_to_make(target, &error.to_string()))?;
            kept.keep(create::BACKING, &below)?;
        }
        Ok(kept)
    }

    /// Makes the target, unless it is there already, and opens it for writing `len` bytes.
    pub(super) async fn open_target(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        checked: &Checked,
        kept: &Kept,
    ) -> Result<Target, Failure> {
        let mut made = None;
        let mut options = ImageOptions {
            format: Some(self.target_format()).filter(|_| !self.target_image_opts),
            no_flush: checked.cache.no_flush,
            direct: checked.cache.direct,
            discard: true,
            ..ImageOptions::default()
        };
        let mut path = path.to_owned();
        if self.existing {
            (path, options) = everywhere::spec(&path, self.target_image_opts, options)?;
            if options.read_only {
                let name = path.display();
                return Err(Failure::new(format!("'{name}': Block node is read-only")));
            }
            kept.check_path(&path)?;
        } else {
            made = self.make_target(tool, &path, len, checked, kept).await?;
        }
        let opened = self.open(tool, &path, len, options, kept).await;
        if let (Err(_), Some(path)) = (&opened, &made) {
            let _ = fs::remove_file(path);
        }
        let node = opened?;
        // A raw device shows what it has always held.
        let is_device = node.format() == Format::Raw && node.image().storage().has_fixed_len();
        let is_blank = !self.existing && !is_device;
        Ok(Target {
            node,
            is_blank,
            made,
        })
    }

    async fn open(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        options: ImageOptions,
        kept: &Kept,
    ) -> Result<Rc<Node>, Failure> {
        let node = tool.opener.open(path, &tool.everywhere.of(options)).await;
        let node = node.map_err(OpenError)?;
        kept.check(node.image().storage())?;
        kept.check(node.image().data_storage())?;
        if node.size() < len {
            return Err(Failure::new("output file is smaller than input file"));
        }
        Ok(node)
    }

    /// What the options ask for, if that goes together.
    pub(super) fn wanted(&self) -> Result<Wanted, String> {
        let target = create::Target {
            format: self.target_format(),
            options: &self.options,
            backing: self.backing.clone(),
            backing_format: self.backing_format.map(|format| format.to_string()),
            any_backing_format: false,
        };
        let wanted = target.wanted()?;
        if self.compress && wanted.image.data_file.is_some() {
            return Err("Compression not supported with an external data file".into());
        }
        if self.compress && wanted.image.preallocation != Preallocation::Off {
            return Err("Compression and preallocation not supported at the same time".into());
        }
        Ok(wanted)
    }

    /// Makes the target's image; the path of its file if that is new.
    async fn make_target(
        &self,
        tool: &Tool,
        path: &Path,
        len: u64,
        checked: &Checked,
        kept: &Kept,
    ) -> Result<Option<PathBuf>, Failure> {
        let durable = !checked.cache.no_flush;
        let mut image = checked.wanted.image.clone();
        image.size = len;
        let (format, hints) = (self.target_format(), checked.wanted.hints);
        let made = create::make(tool, path, format, image, durable, kept, hints).await;
        made.map_err(|why| self.failed_to_make(path, &why))
    }

    fn failed_to_make(&self, path: &Path, why: &str) -> Failure {
        let (file, format) = (path.display(), self.target_format());
        Failure::new(format!("{file}: error while converting {format}: {why}"))
    }
}
