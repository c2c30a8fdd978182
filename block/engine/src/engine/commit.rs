//! `block-commit`: from the command to the job.

use std::{path::Path, rc::Rc};

use strata_graph::{
    GuestDisk, Hold, Mirror, Name, NoSuchLayer, Node, Purpose, name_for, named_layer,
};
use strata_storage::{absolute_name, is_unnamed};

use super::{
    Engine,
    find::{check_is_root, check_writable},
    merge::{Prepared, backing_for},
    refused,
};
use crate::{
    api::{BlockCommit, Cmd, CmdError, DiskName, JobType, OnError, Reply},
    jobs::{ActiveCommit, Begun, Commit, Ending, JobOptions, Record, Shape},
};

/// The layers of a disk, and those that a commit begins and ends with: their places from the top
/// down.
struct Found {
    layers: Vec<Rc<Node>>,
    top: usize,
    base: usize,
}

impl Engine {
    /// The job that `cmd` asks for.
    pub(super) fn prepare_commit(self: &Rc<Self>, cmd: BlockCommit) -> Result<Prepared, CmdError> {
        let asked = Cmd::BlockCommit(Box::new(cmd.clone()));
        let disk = self.find_root(&cmd.device)?;
        let id = cmd.job_id.as_ref().unwrap_or(&disk.options().id);
        let options = JobOptions {
            id: self.opener.names().job(id)?,
            kind: JobType::Commit,
            speed: cmd.speed.unwrap_or(0),
            on_error: cmd.on_error.unwrap_or(OnError::Report),
            auto_finalize: cmd.auto_finalize.unwrap_or(true),
            auto_dismiss: cmd.auto_dismiss.unwrap_or(true),
            group: self.join_group(cmd.group.as_deref(), cmd.group_size)?,
        };
        let filter = self.reserve_filter(cmd.filter_node_name.as_deref())?;
        let found = self.find_committed(&disk, &cmd)?;
        check_writable(&disk)?;
        let Found { layers, top, base } = found;
        refuse_temporary(&layers[..base])?;
        let Some(overlay) = top.checked_sub(1) else {
            let (top, base_node) = (&layers[0], &layers[base]);
            if base_node.size() > top.size() {
                return Err(refused(format!(
                    "'{}' shows {} bytes, and the disk has {}: make the disk as large first, with \
                     block_resize",
                    base_node.path().display(),
                    base_node.size(),
                    top.size()
                )));
            }
            let record = {
                let layers = layers[..=base].iter().cloned();
                let asked = (&*disk, &options, asked);
                self.record_of(asked, Shape::CommitTop, layers)
            };
            return self.prepare_active_commit(disk, base_node, (filter, record), options);
        };
        let held = layers[overlay..=base].iter().cloned();
        let asked = (&*disk, &options, asked);
        let record = self.record_of(asked, Shape::Commit, held.clone());
        let purpose = Purpose::job("commit", options.id.as_str(), &disk);
        let hold = Hold::take(&disk, held, purpose)?;
        let (overlay, base) = (layers[overlay].clone(), layers[base].clone());
        let backing = backing_for(&overlay, &base, cmd.backing_file);
        let commit = Commit {
            top: layers[top].clone(),
            relink: self.relink(overlay, Some((&base, backing)), hold),
            base,
            _filter: filter,
        };
        let (len, checked) = (commit.len(), commit.relink.check_base(&disk));
        let target = commit.base.clone();
        let recorded = (record, Some(target));
        self.prepare_merge(disk, options, (commit, len), checked, recorded)
    }

    /// The disk that is called `device`, by its id or by the node name of its top layer.
    pub(super) fn find_root(&self, device: &str) -> Result<Rc<GuestDisk>, CmdError> {
        let found = self.find_layer(device);
        let (disk, layer) = found.ok_or_else(|| CmdError::device_not_found(device))?;
        check_is_root(&disk, &layer)?;
        Ok(disk)
    }

    /// Takes the node name that is to be the job's.
    pub(super) fn reserve_filter(&self, name: Option<&str>) -> Result<Option<Name>, CmdError> {
        let names = self.opener.names();
        Ok(name.map(|name| names.layer(name)).transpose()?)
    }

    fn find_committed(&self, disk: &GuestDisk, cmd: &BlockCommit) -> Result<Found, CmdError> {
        let layers: Vec<_> = disk.root().chain().collect();
        let top = match (&cmd.top_node, &cmd.top) {
            (Some(name), _) => self.place_of(&layers, name)?,
            (None, Some(file)) => place_of_top(&layers, file)?,
            (None, None) => 0,
        };
        let base = top
            + match (&cmd.base_node, &cmd.base) {
                (Some(name), _) => self.place_of(&layers[top..], name)?,
                (None, Some(file)) => {
                    let found = named_layer(&layers[top], file);
                    place(&layers[top..], &found.map_err(no_such_layer)?)
                }
                (None, None) => layers.len() - top - 1,
            };
        if top == base {
            return Err(refused("cannot commit an image into itself"));
        }
        if top == 0 && cmd.backing_file.is_some() {
            let why = "'backing-file' specified, but 'top' is the active layer";
            return Err(refused(why));
        }
        Ok(Found { layers, top, base })
    }

    /// Which of `layers` has the node name `name`.
    fn place_of(&self, layers: &[Rc<Node>], name: &str) -> Result<usize, CmdError> {
        let is_it = |node: &Rc<Node>| node.name() == name;
        layers.iter().position(is_it).ok_or_else(|| {
            let known = self.find_layer(name);
            refused(match known.filter(|(_, layer)| layer.name() == name) {
                Some(_) => format!("'{name}' is not in this backing file chain"),
                None => {
                    let name = DiskName {
                        device: None,
                        node_name: Some(name.to_owned()),
                    };
                    format!("Cannot find {name}")
                }
            })
        })
    }

    /// A commit of a disk's top into a layer below it.
    fn prepare_active_commit(
        self: &Rc<Self>,
        disk: Rc<GuestDisk>,
        base: &Rc<Node>,
        (filter, record): (Option<Name>, Option<Record>),
        options: JobOptions,
    ) -> Result<Prepared, CmdError> {
        let top = disk.root();
        let held = top.chain_above(Some(base)).chain([base.clone()]);
        let purpose = Purpose::job("commit", options.id.as_str(), &disk);
        let hold = Hold::take(&disk, held, purpose)?;
        let named = name_for(&top, base);
        let commit = ActiveCommit {
            mirror: Mirror::new(top.clone(), base.clone()),
            relink: self.relink(top.clone(), Some((base, named)), hold),
            top,
            base: base.clone(),
            _filter: filter,
        };
        let (len, checked) = (commit.len(), commit.relink.check_base(&disk));
        // The guest has changed what it has copied, as far as another process knows.
        self.prepare_merge(disk, options, (commit, len), checked, (record, None))
    }

    /// HMP's `commit`: of the disk `device`, or of all that have a backing file.
    pub(super) async fn commit(self: &Rc<Self>, device: &str) -> Result<Reply, CmdError> {
        let disks = if device == "all" {
            let disks = self.disks.borrow();
            let on_others = disks.iter().filter(|disk| disk.root().backing().is_some());
            on_others.cloned().collect()
        } else {
            vec![self.find_root(device)?]
        };
        for disk in disks {
            let id = disk.options().id.clone();
            self.commit_disk(disk)
                .await
                .map_err(|error| refused(format!("'commit' error for '{id}': {}", error.desc)))?;
        }
        Ok(Reply::Done)
    }

    /// Has the disk's top given up, once its backing file has what it holds.
    async fn commit_disk(self: &Rc<Self>, disk: Rc<GuestDisk>) -> Result<(), CmdError> {
        let unsupported = || refused("Operation not supported");
        let base = disk.root().backing().ok_or_else(unsupported)?;
        if disk.options().read_only {
            return Err(refused("Permission denied"));
        }
        refuse_temporary(&[disk.root()])?;
        // What stands in the way says more than that it has the job's id.
        let id = &disk.options().id;
        let purpose = Purpose::job("commit", id, &disk);
        drop(Hold::take(&disk, [disk.root()], purpose)?);
        let options = JobOptions {
            id: self.opener.names().job(id)?,
            kind: JobType::Commit,
            speed: 0,
            on_error: OnError::Report,
            auto_finalize: true,
            auto_dismiss: true,
            group: None,
        };
        let job = self
            .prepare_active_commit(disk, &base, (None, None), options)?
            .start(Begun::default());
        job.end_by(Ending::Empty);
        self.jobs.wait_for(&job).await.map_err(refused)
    }
}

/// Refuses to write to what lies below `layers` if one of them is a temporary overlay.
fn refuse_temporary(layers: &[Rc<Node>]) -> Result<(), CmdError> {
    if !layers.iter().any(|layer| is_unnamed(layer.path())) {
        return Ok(());
    }
    Err(refused(
        "What is written to the disk is temporary (snapshot=on), and others may share the image: keep \
         it with snapshot_blkdev and then block_stream",
    ))
}

fn place(layers: &[Rc<Node>], layer: &Rc<Node>) -> usize {
    let found = layers.iter().position(|node| Rc::ptr_eq(node, layer));
    found.expect("the layer was found among them")
}

/// Which layer `top` means, a name of its file: the first of them, too.
fn place_of_top(layers: &[Rc<Node>], top: &str) -> Result<usize, CmdError> {
    if absolute_name(Path::new(top)) == absolute_name(layers[0].path()) {
        return Ok(0);
    }
    match named_layer(&layers[0], top) {
        Ok(layer) => Ok(place(layers, &layer)),
        Err(NoSuchLayer::Unknown(top)) => Err(refused(format!("Top image file {top} not found"))),
        Err(error) => Err(no_such_layer(error)),
    }
}

fn no_such_layer(error: NoSuchLayer) -> CmdError {
    refused(error.to_string())
}
