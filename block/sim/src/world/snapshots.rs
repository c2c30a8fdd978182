//! Internal snapshots, made, applied and deleted while no guest is at work.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    rc::Rc,
    time::UNIX_EPOCH,
};

use strata_format::{
    check::Repair,
    qcow2::{Qcow2, Snapshot},
};
use strata_graph::{Format, Node, chain::ImageOptions};
use strata_storage::error::{Error, Result};

use super::{World, offline::Offline, run::check_refuses};
use crate::{
    operator::Live,
    oracle::{self, Chain, Contents},
    plan::data_path,
};

/// Snapshots of one image at most.
const MOST: usize = 3;

/// A snapshot that an image has.
#[derive(Clone)]
pub(super) struct Kept {
    name: String,
    /// What the layer held by itself, with zeros where it held nothing.
    content: Vec<u8>,
    /// Bytes of the disk.
    size: usize,
    /// It is there for certain; otherwise it was being made or deleted.
    certain: bool,
}

/// How a change has ended.
enum End {
    Done,
    /// Refcounts are too narrow for it.
    Refused,
    /// The power has to be cut; the change had been acknowledged if it is `whole`.
    Cut {
        whole: bool,
    },
}

/// What is done with the snapshots of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Create,
    Apply,
    Delete,
}

impl World {
    /// Makes, applies or deletes a snapshot; a crash may end that.
    pub fn change_snapshots(&mut self) {
        let layer = if self.random.one_in(4) {
            self.random.below(self.chain.0.len() as u64) as usize
        } else {
            0
        };
        let (path, format) = self.chain.0[layer].clone();
        // Data outside of an image belongs to the disk as it is now.
        if format != Format::Qcow2 || self.files.contains_key(&data_path(&path)) {
            return;
        }
        let count = self.snapshots.get(&path).map_or(0, Vec::len);
        let change = match self.random.below(3) {
            _ if count == 0 => Change::Create,
            0 if layer == 0 => Change::Apply,
            0 | 1 => Change::Delete,
            _ if count < MOST => Change::Create,
            _ => Change::Delete,
        };
        match change {
            Change::Create => self.create(layer, path),
            Change::Delete => self.delete(layer, &path),
            Change::Apply => self.apply(&path),
        }
    }

    fn create(&mut self, layer: usize, path: PathBuf) {
        let before = self.read_at_rest();
        let name = format!("snapshot {}", self.random.next());
        let content = self.layer_alone(layer, None);
        let kept = Kept {
            name: name.clone(),
            size: content.len(),
            content,
            certain: false,
        };
        self.snapshots.entry(path.clone()).or_default().push(kept);
        let (offline, end) = self.carry_out(layer, Change::Create, name);
        match end {
            End::Done => self.last_of(&path).certain = true,
            End::Refused => drop(self.snapshots.get_mut(&path).unwrap().pop()),
            End::Cut { whole } => {
                self.last_of(&path).certain = whole;
                return self.crash_in_change(&offline, layer);
            }
        }
        self.end_offline(&offline);
        assert!(self.read_at_rest() == before, "the disk has changed");
    }

    fn delete(&mut self, layer: usize, path: &Path) {
        let before = self.read_at_rest();
        let all = self.snapshots.get_mut(path).unwrap();
        let which = self.random.below(all.len() as u64) as usize;
        let kept = all.remove(which);
        let name = kept.name.clone();
        all.push(Kept {
            certain: false,
            ..kept
        });
        let (offline, end) = self.carry_out(layer, Change::Delete, name);
        if !matches!(end, End::Cut { whole: false }) {
            self.snapshots.get_mut(path).unwrap().pop();
        }
        if let End::Cut { .. } = end {
            return self.crash_in_change(&offline, layer);
        }
        self.end_offline(&offline);
        assert!(self.read_at_rest() == before, "the disk has changed");
    }

    fn apply(&mut self, path: &Path) {
        let before = self.read_at_rest();
        let all = &self.snapshots[path];
        let which = self.random.below(all.len() as u64) as usize;
        let name = all[which].name.clone();
        let size = all[which].size;
        let mut after = if self.chain.0.len() == 1 {
            all[which].content.clone()
        } else {
            // Of a snapshot that is longer, only as much as the disk has now.
            self.shown_over_backing(&name)
        };
        after.truncate(size);
        let is_after = |found: &[u8]| found.len() == size && found.starts_with(&after);
        let (offline, end) = self.carry_out(0, Change::Apply, name);
        let crashed = matches!(end, End::Cut { .. });
        if crashed {
            self.leave_change(&offline, 0);
        } else {
            self.end_offline(&offline);
        }
        let found = self.read_at_rest();
        let (as_before, as_after) = (found == before, is_after(&found));
        assert!(
            match end {
                End::Refused => as_before,
                End::Done | End::Cut { whole: true } => as_after,
                End::Cut { whole: false } => as_before || as_after,
            },
            "the disk is neither as it was nor as the snapshot"
        );
        self.model.borrow_mut().resized(found.len() as u64);
        self.model.borrow_mut().found(&found);
        if crashed {
            self.examine();
        }
    }

    /// Does it on layer `layer` until it ends or a random moment comes; perhaps with files that
    /// fail or have no more room. A change that fails has not been made at all, and can be made
    /// when there is no trouble any more; or the image has stopped, and a power cut shows which it
    /// was.
    fn carry_out(&mut self, layer: usize, change: Change, name: String) -> (Offline, End) {
        let alone = (change != Change::Apply).then(|| self.layer_alone(layer, None));
        let offline = self.offline();
        let node = offline.open_layer(self, layer, false);
        let in_trouble = self.random.one_in(3);
        if in_trouble {
            self.bring_trouble(&offline, layer);
        }
        let mark = Rc::new(Cell::new(false));
        let (reached, work) = (mark.clone(), (node.clone(), name.clone()));
        let work = async move {
            reached.set(true);
            let made = run(&work.0, change, &work.1).await;
            (made, work.0.image().close().await)
        };
        let look = |world: &mut Self, files| world.look_at_change(files, layer, alone.as_deref());
        let Some((mut made, mut closed)) = offline.run(self, work, &mark, look) else {
            return (offline, End::Cut { whole: false });
        };
        offline.end_trouble();
        if in_trouble && node.image().is_stopped() {
            let file = offline.directory.file(node.path()).unwrap();
            offline.exec.block_on(check_refuses(node, file));
            let whole = made.is_ok();
            return (offline, End::Cut { whole });
        }
        if in_trouble {
            (made, closed) = offline.exec.block_on(async move {
                if made.is_err() {
                    made = run(&node, change, &name).await;
                }
                (made, node.image().close().await)
            });
        }
        closed.unwrap();
        match made {
            Ok(()) => (offline, End::Done),
            Err(error) => {
                assert!(is_too_many(&error), "{error}");
                (offline, End::Refused)
            }
        }
    }

    /// Checks what a crash would leave of a layer, which shows `alone` by itself, if that is known.
    fn look_at_change(&mut self, files: Contents, layer: usize, alone: Option<&[u8]>) {
        let files = std::mem::replace(&mut self.files, files);
        let kept = self.snapshots.clone();
        let only = self.chain.0[layer].clone();
        if !oracle::lacks_only_flags(&self.files, &only.0) {
            oracle::check(&self.files, &Chain(vec![only]));
        }
        self.check_snapshots_of(layer);
        if let Some(alone) = alone {
            assert!(
                self.layer_alone(layer, None) == alone,
                "the layer has changed"
            );
        }
        self.snapshots = kept;
        self.files = files;
    }

    /// Cuts the power, and opens what is left.
    fn crash_in_change(&mut self, offline: &Offline, layer: usize) {
        self.leave_change(offline, layer);
        self.examine();
    }

    /// Cuts the power. In version 2, which cannot say that it has to be put right, COPIED flags may
    /// be missing then: harmless, until somebody repairs the image.
    fn leave_change(&mut self, offline: &Offline, layer: usize) {
        self.files = offline.directory.after_crash(self.random.next());
        offline.exec.drop_tasks();
        let path = self.chain.0[layer].0.clone();
        if oracle::lacks_only_flags(&self.files, &path) {
            let offline = self.offline();
            let (opener, directory) = (offline.opener.clone(), offline.directory.clone());
            let options = ImageOptions {
                repair: true,
                ..self.image_options(layer, true)
            };
            offline.exec.block_on(async move {
                let node = opener.open_layer(&path, &options).await.unwrap();
                node.image().check(Some(Repair::All)).await.unwrap();
            });
            self.files = directory.durable();
        }
    }

    fn last_of(&mut self, path: &Path) -> &mut Kept {
        self.snapshots.get_mut(path).unwrap().last_mut().unwrap()
    }

    /// What a layer holds by itself, in a snapshot if there is a name.
    fn layer_alone(&mut self, layer: usize, name: Option<&str>) -> Vec<u8> {
        let offline = self.offline();
        let node = offline.open_layer(self, layer, true);
        if let Some(name) = name {
            offline.show(&node, name);
        }
        offline.read_all(&node)
    }

    /// What the disk would show if the top were as in the snapshot.
    fn shown_over_backing(&mut self, name: &str) -> Vec<u8> {
        let offline = self.offline();
        let top = offline.open_chain(self, true);
        offline.show(&top, name);
        offline.read_all(&top)
    }

    /// Every snapshot of every layer is as it was when it was made, or first looked at.
    pub(super) fn check_snapshots(&mut self) {
        self.look_at_live();
        for layer in 0..self.chain.0.len() {
            self.check_snapshots_of(layer);
            let path = &self.chain.0[layer].0;
            if self.with_qemu {
                for Kept { name, content, .. } in self.snapshots.get(path).into_iter().flatten() {
                    oracle::check_snapshot_with_qemu(&self.files[path], name, content);
                }
            }
        }
    }

    /// Notes what those keep that were made while guests were at work.
    fn look_at_live(&mut self) {
        for live in self.live.take() {
            let Live {
                path,
                name,
                certain,
            } = live;
            let found = self.chain.0.iter().position(|(layer, _)| *layer == path);
            let Some(layer) = found else {
                continue;
            };
            let mut listed = self.list(layer).into_iter();
            let Some(found) = listed.find(|listed| listed.name == name) else {
                assert!(!certain, "{}: '{name}' is gone", path.display());
                continue;
            };
            // As much of it as the disk has now.
            let mut content = self.layer_alone(layer, Some(&name));
            let size = usize::try_from(found.disk_size.unwrap()).unwrap();
            content.truncate(size);
            self.snapshots.entry(path).or_default().push(Kept {
                name,
                content,
                size,
                certain: true,
            });
        }
    }

    fn check_snapshots_of(&mut self, layer: usize) {
        let (path, format) = self.chain.0[layer].clone();
        if format != Format::Qcow2 {
            return;
        }
        let names = self.names_in(layer);
        let mut kept = self.snapshots.remove(&path).unwrap_or_default();
        for name in &names {
            let known = kept.iter().any(|kept| kept.name == *name);
            assert!(known, "{}: nobody made '{name}'", path.display());
        }
        kept.retain(|kept| names.contains(&kept.name) || kept.certain);
        for kept in &mut kept {
            let (name, path) = (&kept.name, path.display());
            assert!(names.contains(name), "{path}: '{name}' is gone");
            kept.certain = true;
            let found = self.layer_alone(layer, Some(name));
            // As much as the disk has now; what comes behind its own end is not said.
            let differ = |(a, b): (&u8, &u8)| a != b;
            let differs = found.iter().zip(&kept.content).position(differ);
            assert_eq!(differs, None, "{path}: '{name}' has changed");
        }
        self.snapshots.insert(path, kept);
    }

    fn names_in(&mut self, layer: usize) -> Vec<String> {
        let listed = self.list(layer).into_iter();
        listed.map(|snapshot| snapshot.name).collect()
    }

    fn list(&mut self, layer: usize) -> Vec<Snapshot> {
        let offline = self.offline();
        let node = offline.open_layer(self, layer, true);
        let list = async move { node.image().as_qcow2().unwrap().snapshots().await.unwrap() };
        offline.exec.block_on(list)
    }
}

impl Offline {
    /// From now on the layer shows what the snapshot keeps.
    fn show(&self, node: &Rc<Node>, name: &str) {
        let (node, name) = (node.clone(), name.to_owned());
        self.exec.block_on(async move {
            let image = node.image().as_qcow2().expect("chosen for it");
            let snapshots = image.snapshots().await.unwrap();
            let found = snapshots.iter().find(|s| s.name == name).unwrap();
            image.show_snapshot(found).await.unwrap();
        });
    }
}

/// The width of refcounts decides how many snapshots there can be.
fn is_too_many(error: &Error) -> bool {
    error.to_string().contains("refcounts have")
}

async fn id_of(image: &Qcow2, name: &str) -> Result<String> {
    let snapshots = image.snapshots().await?;
    let found = snapshots.into_iter().find(|s| s.name == name);
    Ok(found.expect("it was there").id)
}

async fn run(node: &Node, change: Change, name: &str) -> Result<()> {
    let image = node.image().as_qcow2().expect("chosen for it");
    match change {
        Change::Create => image.create_snapshot(name, UNIX_EPOCH).await.map(drop),
        Change::Apply => node.apply_snapshot(&id_of(image, name).await?).await,
        Change::Delete => image.delete_snapshot(&id_of(image, name).await?).await,
    }
}
