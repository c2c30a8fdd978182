//! `block-stream`: from the command to the job.

use std::rc::Rc;

use strata_graph::{GuestDisk, Hold, Node, Purpose, named_layer};

use super::{
    Engine,
    find::check_writable,
    merge::{Prepared, backing_for},
    refused,
};
use crate::{
    api::{BlockStream, Cmd, CmdError, JobType, OnError},
    jobs::{JobOptions, Shape, Stream},
};

impl Engine {
    /// The job that `cmd` asks for.
    pub(super) fn prepare_stream(self: &Rc<Self>, cmd: BlockStream) -> Result<Prepared, CmdError> {
        let asked = Cmd::BlockStream(cmd.clone());
        let device = &cmd.device;
        let (disk, top) = self
            .find_layer(device)
            .ok_or_else(|| self.not_found(device))?;
        let is_top = Rc::ptr_eq(&top, &disk.root());
        let default = || is_top.then(|| disk.options().id.clone());
        let id = cmd.job_id.clone().or_else(default).unwrap_or_default();
        let id = self.opener.names().job(&id)?;
        let filter = self.reserve_filter(cmd.filter_node_name.as_deref())?;
        let base = self.find_base(&top, &cmd)?;
        if base.is_none() && cmd.backing_file.is_some() {
            return Err(refused(
                "backing file specified, but streaming the entire chain",
            ));
        }
        check_writable(&disk)?;
        let purpose = Purpose::job("stream", id.as_str(), &disk);
        let hold = hold_down_to(&disk, (&top, base.as_ref()), purpose)?;
        let options = JobOptions {
            id,
            kind: JobType::Stream,
            speed: cmd.speed.unwrap_or(0),
            on_error: cmd.on_error.unwrap_or(OnError::Report),
            auto_finalize: cmd.auto_finalize.unwrap_or(true),
            auto_dismiss: cmd.auto_dismiss.unwrap_or(true),
            group: self.join_group(cmd.group.as_deref(), cmd.group_size)?,
        };
        let record = {
            let shape = match &base {
                Some(_) => Shape::StreamToBase,
                None => Shape::Stream,
            };
            let layers = top.chain_above(base.as_ref()).chain(base.clone());
            self.record_of((&disk, &options, asked), shape, layers)
        };
        let named = |base| (base, backing_for(&top, base, cmd.backing_file));
        let below = base.as_ref().map(named);
        let stream = Stream {
            is_top,
            relink: self.relink(top.clone(), below, hold),
            _filter: filter,
        };
        let (len, checked) = (stream.len(), stream.check_base(&disk));
        self.prepare_merge(disk, options, (stream, len), checked, (record, None))
    }

    /// The layer that stays below `top`.
    fn find_base(&self, top: &Rc<Node>, cmd: &BlockStream) -> Result<Option<Rc<Node>>, CmdError> {
        let named = |name: &str| top.chain().find(|node| node.name() == name);
        if let Some(name) = &cmd.bottom {
            let bottom = named(name).ok_or_else(|| {
                refused(match self.find_layer(name) {
                    Some((_, layer)) if layer.name() == name => {
                        let device = &cmd.device;
                        format!("Node '{name}' is not in a chain starting from '{device}'")
                    }
                    _ => format!("Cannot find device='' nor node-name='{name}'"),
                })
            })?;
            return Ok(bottom.backing());
        }
        if let Some(name) = &cmd.base_node {
            let found = named(name).filter(|node| !Rc::ptr_eq(node, top));
            return found.map(Some).ok_or_else(|| {
                let top = top.name();
                refused(format!("Node '{name}' is not a backing image of '{top}'"))
            });
        }
        let Some(name) = &cmd.base else {
            return Ok(None);
        };
        let found = named_layer(top, name);
        found.map(Some).map_err(|error| refused(error.to_string()))
    }
}

/// Holds the layer that is merged into and what lies between it and the base, which will be closed;
/// and the base, which stays as it is.
fn hold_down_to(
    disk: &GuestDisk,
    (top, base): (&Rc<Node>, Option<&Rc<Node>>),
    purpose: Purpose,
) -> Result<Hold, CmdError> {
    let hold = Hold::take(disk, top.chain_above(base), purpose)?;
    Ok(hold.and_keep(disk, base.cloned())?)
}
