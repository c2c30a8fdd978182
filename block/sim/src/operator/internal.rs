//! Internal snapshots, while guests write.

use std::{cell::RefCell, path::PathBuf, rc::Rc};

use strata_block::api::{BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal, Cmd};

use super::{DISK, Operator};
use crate::guest::Allowed;

/// Snapshots of one image at most.
const MOST: usize = 3;

/// A snapshot that was made in this run, or was to be.
pub struct Live {
    /// Its image.
    pub path: PathBuf,
    pub name: String,
    /// It is there for certain; otherwise it was being made or deleted.
    pub certain: bool,
}

/// Those of one run.
pub type LiveSnapshots = Rc<RefCell<Vec<Live>>>;

impl Operator {
    /// Makes a snapshot within the top, or deletes one that was made in this run.
    pub(super) async fn keep_or_give_up(&self) {
        let root = self.engine.find_disk(DISK).unwrap().root();
        let Some(image) = root.image().as_qcow2() else {
            return;
        };
        // In version 2 a crash leaves flags missing, which is looked at elsewhere.
        if image.version() < 3 || image.data_file().is_some() {
            return;
        }
        let Ok(snapshots) = image.snapshots().await else {
            return;
        };
        let found = self
            .live
            .borrow()
            .iter()
            .position(|live| live.path == root.path() && live.certain);
        self.marks.set(self.marks.get() + 1);
        match found {
            Some(found) if self.below(2) == 0 => self.give_up(found).await,
            _ if snapshots.len() < MOST => self.keep(root.path().to_owned()).await,
            _ => {}
        }
    }

    async fn keep(&self, path: PathBuf) {
        let name = format!("live {}", self.random.borrow_mut().next());
        let at = self.live.borrow().len();
        self.live.borrow_mut().push(Live {
            path,
            name: name.clone(),
            certain: false,
        });
        let cmd = BlockdevSnapshotInternal {
            device: DISK.to_owned(),
            name,
        };
        match self.execute(Cmd::BlockdevSnapshotInternalSync(cmd)).await {
            Ok(_) => self.live.borrow_mut()[at].certain = true,
            // There is none then.
            Err(error) if error.desc.contains("refcounts have") => {
                self.live.borrow_mut().remove(at);
            }
            Err(error) => assert_ne!(self.allowed.get(), Allowed::Nothing, "{error}"),
        }
    }

    async fn give_up(&self, at: usize) {
        let name = {
            let live = &mut self.live.borrow_mut()[at];
            live.certain = false;
            live.name.clone()
        };
        let cmd = BlockdevSnapshotDeleteInternal {
            device: DISK.to_owned(),
            id: None,
            name: Some(name),
        };
        match self
            .execute(Cmd::BlockdevSnapshotDeleteInternalSync(cmd))
            .await
        {
            Ok(_) => drop(self.live.borrow_mut().remove(at)),
            Err(error) => assert_ne!(self.allowed.get(), Allowed::Nothing, "{error}"),
        }
    }
}
