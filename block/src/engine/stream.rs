//! `block-stream`: from the command to the job.

use std::{
    path::{Path, PathBuf, absolute},
    rc::Rc,
};

use super::{Engine, check_free, refused};
use crate::{
    api::{Cmd, CmdError, JobType},
    exec::Queue,
    graph::{GuestDisk, Node},
    jobs::{Job, JobOptions, Stream, conclude},
    qcow2::Backing,
    storage::{absolute_name, is_nbd_uri},
};

/// What holds the disk while the job lasts, in QEMU's words.
const HOLDER: &str = "block job: stream";

impl Engine {
    /// Starts the job that `cmd` asks for.
    pub(super) fn start_stream(self: &Rc<Self>, cmd: Cmd) -> Result<(), CmdError> {
        let Cmd::Stream {
            job_id,
            device,
            base,
            base_node,
            backing_file,
            speed,
            on_error,
            auto_finalize,
            auto_dismiss,
        } = cmd
        else {
            unreachable!("called for a stream");
        };
        let disk = self.find_disk(&device).ok_or_else(|| {
            refused(format!(
                "Cannot find device='{device}' nor node-name='{device}'"
            ))
        })?;
        let base = find_base(&disk, base, base_node)?;
        if base.is_none() && backing_file.is_some() {
            return Err(refused(
                "backing file specified, but streaming the entire chain",
            ));
        }
        let id = job_id.unwrap_or_else(|| disk.options().id.clone());
        self.jobs.check_new_id(&id)?;
        check_free(&disk)?;
        if disk.options().read_only {
            return Err(refused(format!(
                "Disk '{}' is read-only",
                disk.options().id
            )));
        }
        disk.set_holder(Some(HOLDER));
        let top = disk.root();
        let backing = base
            .as_ref()
            .map(|base| name_base(&top, base, backing_file));
        let options = JobOptions {
            id,
            kind: JobType::Stream,
            speed,
            on_error,
            auto_finalize,
            auto_dismiss,
        };
        let job = Rc::new(Job::new(
            self.exec.clone(),
            self.events.clone(),
            disk,
            options,
        ));
        let stream = Stream { top, base, backing };
        // Known before the first step, so that no client sees "0 of 0 bytes".
        job.set_len(stream.len());
        self.jobs.insert(job.clone());
        self.exec
            .spawn(Queue::Job, conclude(job, stream, self.jobs.clone()));
        Ok(())
    }
}

/// The layer that stays, by file name or by node name.
fn find_base(
    disk: &GuestDisk,
    base: Option<String>,
    base_node: Option<String>,
) -> Result<Option<Rc<Node>>, CmdError> {
    let top = disk.root();
    match (base, base_node) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(refused(
            "'base' and 'base-node' cannot be specified at the same time",
        )),
        (None, Some(name)) => {
            let found = top.chain().skip(1).find(|node| node.name() == name);
            found.map(Some).ok_or_else(|| {
                refused(format!(
                    "Node '{name}' is not a backing image of '{}'",
                    top.name()
                ))
            })
        }
        (Some(name), None) => find_by_file(&top, &name).map(Some),
    }
}

/// A layer by the name that the chain gives it, by its path, or by the last component of its path
/// where only one layer has that; or by node name, which HMP has no other place for.
fn find_by_file(top: &Rc<Node>, name: &str) -> Result<Rc<Node>, CmdError> {
    let layers: Vec<_> = top.chain().skip(1).collect();
    let written = |node: &Rc<Node>| {
        let above = top
            .chain()
            .find(|n| n.backing().is_some_and(|below| Rc::ptr_eq(&below, node)));
        above
            .and_then(|above| above.backing_name())
            .is_some_and(|backing| backing.name == name)
    };
    let path = absolute(name).ok();
    let same_path = |node: &Rc<Node>| {
        node.path() == Path::new(name)
            || path.is_some() && absolute(node.path()).ok() == path
            || path.as_ref().is_some_and(|path| {
                path.canonicalize()
                    .is_ok_and(|p| node.path().canonicalize().is_ok_and(|n| n == p))
            })
    };
    let exact = layers.iter().find(|node| written(node) || same_path(node));
    if let Some(node) = exact.or_else(|| layers.iter().find(|node| node.name() == name)) {
        return Ok(node.clone());
    }
    let stem = |node: &Rc<Node>| {
        let path = node.path();
        path.file_name().is_some_and(|n| n == name) || path.file_stem().is_some_and(|n| n == name)
    };
    let mut matches = layers.iter().filter(|node| stem(node));
    match (matches.next(), matches.next()) {
        (Some(node), None) => Ok(node.clone()),
        (Some(_), Some(_)) => Err(refused(format!(
            "'{name}' names several layers of the backing chain: give the whole path"
        ))),
        _ => Err(refused(format!("Can't find '{name}' in the backing chain"))),
    }
}

/// How the top's header will name its new backing file. The name that the layer above the base
/// has for it is kept where it means the same from the top's folder.
fn name_base(top: &Rc<Node>, base: &Rc<Node>, given: Option<String>) -> Backing {
    let format = Some(base.format().to_string());
    if let Some(name) = given {
        return Backing { name, format };
    }
    let above = top
        .chain()
        .find(|node| node.backing().is_some_and(|b| Rc::ptr_eq(&b, base)));
    let written = above.and_then(|above| {
        let same_folder = folder(above.path()) == folder(top.path());
        let name = above.backing_name()?.name;
        let anywhere = Path::new(&name).is_absolute() || is_nbd_uri(Path::new(&name));
        (same_folder || anywhere).then_some(name)
    });
    let name = written.unwrap_or_else(|| absolute_name(base.path()).display().to_string());
    Backing { name, format }
}

/// The folder that a relative name in an image is relative to.
fn folder(image: &Path) -> Option<PathBuf> {
    let folder = absolute(image).ok()?;
    let folder = folder.parent()?;
    Some(folder.canonicalize().unwrap_or_else(|_| folder.to_owned()))
}
