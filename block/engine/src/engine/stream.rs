//! `block-stream`: from the command to the job.

use std::rc::Rc;

use strata_graph::{GuestDisk, Hold, Node, Purpose, named_layer};

use super::{
    Engine,
    find::{check_on_top, check_writable},
    merge::{Prepared, backing_for},
    refused,
};
use crate::{
    api::{BlockStream, Cmd, CmdError, JobType, OnError},
    jobs::{JobOptions, NamedBefore, NewBase, Shape, Stream},
};

impl Engine {
    /// The job that `cmd` asks for.
    pub(super) fn prepare_stream(self: &Rc<Self>, cmd: BlockStream) -> Result<Prepared, CmdError> {
        let asked = Cmd::BlockStream(cmd.clone());
        let device = &cmd.device;
        let (disk, layer) = self
            .find_layer(device)
            .ok_or_else(|| self.not_found(device))?;
        let on_top = check_on_top(&disk, &layer);
        let default = || on_top.is_ok().then(|| disk.options().id.clone());
        let id = cmd.job_id.or_else(default).unwrap_or_default();
        let id = self.opener.names().job(&id)?;
        on_top?;
        let base = find_base(&disk, cmd.base.as_deref(), cmd.base_node.as_deref())?;
        check_writable(&disk)?;
        let purpose = Purpose::job("stream", id.as_str(), &disk);
        let hold = hold_down_to(&disk, base.as_ref(), purpose)?;
        let top = disk.root();
        let record = {
            let shape = match &base {
                Some(_) => Shape::StreamToBase,
                None => Shape::Stream,
            };
            let is_base =
                |node: &Rc<Node>| base.as_ref().is_some_and(|base| Rc::ptr_eq(base, node));
            let merged = top.chain().take_while(|node| !is_base(node));
            self.record_of((&disk, &id, asked), shape, merged.chain(base.clone()))
        };
        let below = base.map(|base| NewBase {
            backing: backing_for(&top, &base, cmd.backing_file),
            node: base,
        });
        let stream = Stream {
            top,
            base: below,
            files: self.opener.files().clone(),
            hold,
            named: NamedBefore::default(),
        };
        let options = JobOptions {
            id,
            kind: JobType::Stream,
            speed: cmd.speed.unwrap_or(0),
            on_error: cmd.on_error.unwrap_or(OnError::Report),
            auto_finalize: cmd.auto_finalize.unwrap_or(true),
            auto_dismiss: cmd.auto_dismiss.unwrap_or(true),
            group: self.join_group(cmd.group.as_deref(), cmd.group_size)?,
        };
        let (len, checked) = (stream.len(), stream.check_base(&disk));
        self.prepare_merge(disk, options, (stream, len), checked, (record, None))
    }
}

/// Holds the top and what lies between it and the base, which will be closed; and the base, which
/// stays as it is.
fn hold_down_to(
    disk: &GuestDisk,
    base: Option<&Rc<Node>>,
    purpose: Purpose,
) -> Result<Hold, CmdError> {
    let is_base = |node: &Rc<Node>| base.is_some_and(|base| Rc::ptr_eq(base, node));
    let top = disk.root();
    let merged = top.chain().take_while(|node| !is_base(node));
    let hold = Hold::take(disk, merged, purpose)?;
    Ok(hold.and_keep(disk, base.cloned())?)
}

/// The layer that stays, by file name or by node name.
fn find_base(
    disk: &GuestDisk,
    base: Option<&str>,
    base_node: Option<&str>,
) -> Result<Option<Rc<Node>>, CmdError> {
    let top = disk.root();
    match (base, base_node) {
        (None, None) => Ok(None),
        (_, Some(name)) => {
            let found = top.chain().skip(1).find(|node| node.name() == name);
            found.map(Some).ok_or_else(|| {
                refused(format!(
                    "Node '{name}' is not a backing image of '{}'",
                    top.name()
                ))
            })
        }
        (Some(name), None) => named_layer(&top, name)
            .map(Some)
            .map_err(|error| refused(error.to_string())),
    }
}
