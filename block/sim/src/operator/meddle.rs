//! Whoever is at the files besides: layers that lie elsewhere for a while, and overlays made by
//! hand, as they should be or not. What the engine does not refuse has to be right when the chain
//! is opened again.

use std::rc::Rc;

use strata_block::api::{BlockdevSnapshotSync, Cmd, NewImageMode};
use strata_format::{backing::Backing, qcow2, qed};
use strata_graph::{Format, NewImage, Node, create_image_in};
use strata_storage::Files;

use super::{DISK, Operator};
use crate::{guest::Allowed, plan::path};

impl Operator {
    /// Has a snapshot taken, or a merge started, while the file that its header would name lies
    /// elsewhere: both are refused, and make nothing. Whether there are simulated files to do it
    /// with.
    pub(super) async fn work_on_what_is_away(&self) -> bool {
        let Some(directory) = &self.simulated else {
            return false;
        };
        let root = self.engine.find_disk(DISK).unwrap().root();
        let below: Vec<_> = root.chain().skip(1).collect();
        let (away, cmd, made) = match below.get(1 + self.below(4) as usize) {
            Some(base) => (base.clone(), self.merge_onto(Some(base)), None),
            None => {
                let layer = self.new_layer();
                let cmd = snapshot(&layer, Format::Qcow2, false);
                (root, cmd, Some(layer))
            }
        };
        directory.divert(away.path());
        let result = self.execute(cmd).await;
        directory.put_back(away.path());
        assert!(result.is_err(), "{} was not there", away.path().display());
        if let Some(layer) = made {
            assert!(directory.file(&layer).is_none(), "something was made");
        }
        true
    }

    /// Makes an overlay whose header is right or not, and has it put on the disk.
    pub(super) async fn snapshot_onto_existing(&self) -> bool {
        let Some(directory) = &self.simulated else {
            return false;
        };
        let root = self.engine.find_disk(DISK).unwrap().root();
        let layers: Vec<_> = root.chain().collect();
        let named = layers.get(self.below(1 + layers.len() as u64) as usize);
        // Mostly the right one.
        let named = if self.below(2) == 0 {
            layers.first()
        } else {
            named
        };
        let backing = named.map(|layer| self.by_hand(layer));
        let said = backing
            .as_ref()
            .and_then(|backing| backing.format.as_deref());
        let right = named.is_some_and(|named| Rc::ptr_eq(named, &root))
            && said == Some(root.format().name());
        let format = match self.below(3) {
            // Its header marks raw only.
            0 if root.format() != Format::Raw && right => Format::Qed,
            _ => Format::Qcow2,
        };
        let layer = self.new_layer();
        let image = image(format, root.size(), backing);
        let files = Files::Sim(directory.clone());
        let made = create_image_in(&files, self.engine.exec(), &layer, image).await;
        if made.is_err() {
            assert_ne!(self.allowed.get(), Allowed::Nothing);
            return true;
        }
        let cmd = snapshot(&layer, format, true);
        if right {
            self.must(cmd).await;
        } else {
            let result = self.execute(cmd).await;
            assert!(result.is_err(), "an overlay that names something else");
            assert!(directory.file(&layer).is_some(), "it was there before");
        }
        true
    }

    /// A layer as somebody writes it into a header: by one of its names, with its format or
    /// another.
    fn by_hand(&self, layer: &Node) -> Backing {
        let name = match self.below(2) {
            0 => layer.path().file_name().unwrap().display().to_string(),
            _ => layer.path().display().to_string(),
        };
        let other = match layer.format() {
            Format::Raw => Format::Qcow2,
            _ => Format::Raw,
        };
        let format = if self.below(6) == 0 {
            other
        } else {
            layer.format()
        };
        let format = Some(format.to_string());
        Backing {
            name: name.into(),
            format,
        }
    }

    fn new_layer(&self) -> std::path::PathBuf {
        let layer = self.next_layer.get();
        self.next_layer.set(layer + 1);
        path(&self.directory, layer)
    }
}

fn snapshot(layer: &std::path::Path, format: Format, existing: bool) -> Cmd {
    Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some(DISK.to_owned()),
        snapshot_file: layer.display().to_string(),
        format: Some(format.to_string()),
        mode: existing.then_some(NewImageMode::Existing),
        ..BlockdevSnapshotSync::default()
    })
}

fn image(format: Format, size: u64, backing: Option<Backing>) -> NewImage {
    match format {
        Format::Qed => NewImage::Qed(qed::CreateOptions {
            size,
            backing,
            ..qed::CreateOptions::default()
        }),
        _ => NewImage::Qcow2(qcow2::CreateOptions {
            size,
            backing,
            ..qcow2::CreateOptions::default()
        }),
    }
}
