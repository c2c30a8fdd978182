//! Disks that are thrown away: what is written goes to an overlay without a name.

use std::{path::Path, rc::Rc};

use strata_format::{
    backing::Backing,
    qcow2::{self, CreateOptions, OpenOptions, Qcow2},
};
use strata_storage::{absolute_name, error::Result, unnamed_path};

use super::{ImageOptions, Opener, unsaid_format};
use crate::{Name, Node};

impl Opener {
    /// Opens `path`, as `name`, and every layer below it, all of them for reading, and puts an
    /// overlay on top that takes the writes of the disk `id`. Its file, in `directory`, has no name
    /// and goes with this process.
    ///
    /// # Errors
    /// As [`Opener::open`]; no file can be made there.
    pub async fn open_temporary(
        &self,
        name: Name,
        path: &Path,
        options: &ImageOptions,
        (directory, id): (&Path, &str),
    ) -> Result<Rc<Node>> {
        let read_only = ImageOptions {
            read_only: true,
            ..options.clone()
        };
        let image = self.open_layer_as(name, path, &read_only).await?;
        if options.format.is_none() {
            // A guest may have written another one's header into it when it was no temporary disk.
            return Err(unsaid_format(path, image.format()));
        }
        self.open_below(&image, options).await?;
        let overlay = self.overlay_without_name(&image, options, (directory, id));
        overlay.await
    }

    async fn overlay_without_name(
        &self,
        image: &Rc<Node>,
        options: &ImageOptions,
        (directory, id): (&Path, &str),
    ) -> Result<Rc<Node>> {
        let path = unnamed_path(&format!("temporary-overlay-of-{id}"));
        let file = self.files.create_unnamed(&self.exec, directory, &path)?;
        let create = CreateOptions {
            size: image.size(),
            backing: Some(Backing {
                name: absolute_name(image.path()).into_os_string(),
                format: Some(image.format().to_string()),
            }),
            ..CreateOptions::default()
        };
        qcow2::create(file.clone(), create).await?;
        let open = OpenOptions {
            cache_bytes: self.cache_bytes,
            discard: options.discard,
            ..OpenOptions::default()
        };
        let overlay = Qcow2::open(file, open).await?;
        let overlay = Node::qcow2(self.names.made_up(), &path, true, overlay);
        overlay.set_backing_node(Some(image.clone()));
        Ok(Rc::new(overlay))
    }
}
