//! `change-backing-file`: how the header of a layer names what lies below it.

use std::rc::Rc;

use strata_format::backing::Backing;
use strata_graph::{Hold, Node, Purpose, check_leads_to};

use super::{Engine, refused, snapshot::failed};
use crate::api::{ChangeBackingFile, CmdError, DiskName, Reply};

impl Engine {
    /// Writes another name into the header: one that leads to the layer below, too.
    pub(super) async fn change_backing_file(
        &self,
        cmd: ChangeBackingFile,
    ) -> Result<Reply, CmdError> {
        let device = &cmd.device;
        let disk = self.find_root(device)?;
        let is_it = |node: &Rc<Node>| node.name() == cmd.image_node_name;
        let found = disk.root().chain().find(is_it);
        let layer = found.ok_or_else(|| match self.find_layer(&cmd.image_node_name) {
            Some(_) => refused(format!(
                "'{device}' and image file are not in the same chain"
            )),
            None => {
                let name = DiskName {
                    device: None,
                    node_name: Some(cmd.image_node_name.clone()),
                };
                refused(format!("Cannot find {name}"))
            }
        })?;
        let below = layer.backing().ok_or_else(|| {
            refused("not allowing backing file change on an image without a backing file")
        })?;
        let hold = Hold::take(&disk, [layer.clone()], Purpose::Header)?;
        let _hold = hold.and_keep(&disk, [below.clone()])?;
        let backing = Backing {
            name: cmd.backing_file.into(),
            format: Some(below.format().to_string()),
        };
        let upper = (layer.path(), layer.format());
        let (files, options) = (self.opener.files(), disk.image_options());
        check_leads_to(files, upper, Some(&backing), &below, options).map_err(failed)?;
        let was_writable = layer.is_writable();
        layer.prepare_writing().await.map_err(failed)?;
        let written = layer.image().write_backing_name(Some(backing)).await;
        if !was_writable {
            let finished = layer.finish_writing().await;
            finished.map_err(failed)?;
        }
        written.map_err(failed)?;
        Ok(Reply::Done)
    }
}
