//! Commands that are given before the one before them has been carried out: of two that want the
//! same name, one has it.

use std::{cell::RefCell, path::Path, rc::Rc};

use strata_storage::nbd::wire::Address;

use super::{Bench, live::completed, named_spec};
use crate::api::{
    BlockDirtyBitmapAdd, BlockExportAdd, BlockExportDel, BlockStream, BlockdevSnapshotSync, Cmd,
    Event, ExportType, JobRef, NbdServerAdd, NbdServerStart, RemoveMode, Reply,
};

impl Bench {
    /// A disk `id` on a new image, whose layer is called `node_name` if that says anything.
    fn named(&self, id: &str, node_name: &str) -> Result<(), String> {
        self.create(&format!("of-{id}"));
        self.named_again(id, node_name)
    }

    /// The same on the image that there is.
    fn named_again(&self, id: &str, node_name: &str) -> Result<(), String> {
        let spec = named_spec(id, &self.path(&format!("of-{id}")), node_name);
        let opened = self.engine.open_disk(spec);
        opened.map(drop).map_err(|error| error.to_string())
    }

    /// Gives all commands, then waits for all answers: the error's text of each, or nothing.
    fn at_once<const N: usize>(&self, commands: [Cmd; N]) -> [String; N] {
        let answers: [Rc<RefCell<Option<String>>>; N] = std::array::from_fn(|_| Rc::default());
        for (cmd, answer) in commands.into_iter().zip(&answers) {
            let answer = answer.clone();
            self.engine.execute(
                cmd,
                Box::new(move |result| {
                    let refused = result.err().map(|error| error.desc);
                    *answer.borrow_mut() = Some(refused.unwrap_or_default());
                }),
            );
        }
        self.poll_until(|| answers.iter().all(|answer| answer.borrow().is_some()));
        answers.map(|answer| answer.take().unwrap())
    }

    fn serve_at(&self, socket: &str) {
        let address = Address::Unix(self.path(socket));
        let start = Cmd::NbdServerStart(NbdServerStart::at(address));
        assert_eq!(self.command(start), Ok(Reply::Done));
    }

    /// The node name of the disk's top layer.
    fn top_of(&self, disk: &str) -> String {
        let disk = self.engine.find_disk(disk).unwrap();
        disk.root().name().to_owned()
    }
}

fn overlay(device: &str, file: &Path, node_name: &str) -> Cmd {
    Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some(device.to_owned()),
        snapshot_file: file.display().to_string(),
        snapshot_node_name: Some(node_name.to_owned()),
        ..BlockdevSnapshotSync::default()
    })
}

fn job(device: &str, id: &str) -> Cmd {
    Cmd::BlockStream(BlockStream {
        device: device.to_owned(),
        job_id: Some(id.to_owned()),
        auto_dismiss: Some(false),
        ..BlockStream::default()
    })
}

fn export(id: &str, name: Option<&str>, node: &str) -> Cmd {
    Cmd::BlockExportAdd(Box::new(BlockExportAdd {
        name: name.map(str::to_owned),
        ..BlockExportAdd::new(ExportType::Nbd, id, node)
    }))
}

fn delete(id: &str) -> Cmd {
    Cmd::BlockExportDel(BlockExportDel {
        id: id.to_owned(),
        mode: Some(RemoveMode::Hard),
    })
}

fn bitmap(node: &str, name: &str, persistent: bool) -> Cmd {
    Cmd::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd {
        node: node.to_owned(),
        name: name.to_owned(),
        granularity: None,
        persistent: Some(persistent),
        disabled: None,
    })
}

#[test]
fn a_disk_is_not_called_as_an_overlay_that_is_being_made() {
    for snapshot_begins in [false, true] {
        let bench = Bench::new();
        bench.named("d1", "").unwrap();
        // What makes files lets others go on.
        for file in ["of-same", "of-d2"] {
            bench.create(file);
        }
        let answer = Rc::new(RefCell::new(None));
        let slot = answer.clone();
        bench.engine.execute(
            overlay("d1", &bench.path("over"), "same"),
            Box::new(move |result| *slot.borrow_mut() = Some(result)),
        );
        if snapshot_begins {
            bench.engine.poll();
        }
        let [disk, layer] = [
            bench.named_again("same", ""),
            bench.named_again("d2", "same"),
        ];
        bench.poll_until(|| answer.borrow().is_some());
        if snapshot_begins {
            assert!(answer.take().unwrap().is_ok());
            assert_eq!(bench.top_of("d1"), "same");
            let refused = disk.unwrap_err();
            let why = "Device name 'same' conflicts with an existing node name";
            assert!(refused.ends_with(why), "{refused}");
            let refused = layer.unwrap_err();
            let why = "the node name 'same' is another layer's";
            assert!(refused.ends_with(why), "{refused}");
        } else {
            let refused = answer.take().unwrap().unwrap_err().desc;
            assert_eq!(refused, "New overlay node-name already in use");
            assert!(!bench.path("over").exists());
            assert_eq!(disk, Ok(()));
            let refused = layer.unwrap_err();
            let why = "node-name=same is conflicting with a device id";
            assert!(refused.ends_with(why), "{refused}");
        }
    }
}

#[test]
fn two_jobs_do_not_have_one_id() {
    let bench = Bench::new();
    for id in ["d1", "d2"] {
        bench.named(id, "").unwrap();
    }
    let taken = "Job ID 'd2' already in use";
    // It may well be the name of a disk.
    assert_eq!(
        bench.at_once([job("d1", "d2"), job("d2", "d2")]),
        ["", taken]
    );
    bench.until(completed);
    // Until it is dismissed, it can be asked how it ended.
    assert_eq!(bench.at_once([job("d2", "d2")]), [taken]);
    let dismiss = Cmd::JobDismiss(JobRef {
        id: "d2".to_owned(),
    });
    assert_eq!(bench.at_once([dismiss, job("d2", "d2")]), ["", ""]);
}

#[test]
fn two_exports_do_not_have_one_id() {
    let bench = Bench::new();
    bench.named("d1", "n1").unwrap();
    bench.serve_at("socket");
    let taken = "Block export id 'same' is already in use";
    assert_eq!(
        bench.at_once([
            export("same", Some("one"), "n1"),
            export("same", Some("two"), "n1"),
        ]),
        ["", taken]
    );
    // To `nbd-server-add`, whose exports have their names as ids, it is a name.
    let add = Cmd::NbdServerAdd(NbdServerAdd {
        name: Some("same".to_owned()),
        device: "n1".to_owned(),
        ..NbdServerAdd::default()
    });
    let named = "NBD server already has export named 'same'";
    assert_eq!(bench.at_once([add]), [named]);
    // What is refused for another reason leaves its id to others.
    assert_eq!(
        bench.at_once([
            export("other", Some("one"), "n1"),
            export("other", None, "n1")
        ]),
        ["NBD server already has export named 'one'", ""]
    );
}

#[test]
fn an_exports_id_is_free_when_it_is_said_to_be_deleted() {
    let bench = Bench::new();
    bench.named("d1", "n1").unwrap();
    bench.serve_at("socket");
    let add = || export("same", None, "n1");
    assert_eq!(bench.at_once([add(), delete("same")]), ["", ""]);
    let deleted = |events: &[Event]| {
        events
            .iter()
            .any(|event| matches!(event, Event::ExportDeleted { .. }))
    };
    bench.until(deleted);
    assert_eq!(bench.at_once([add()]), [""]);
    // The server ends while the export does.
    bench.events();
    let stop = || Cmd::NbdServerStop;
    assert_eq!(bench.at_once([delete("same"), stop()]), ["", ""]);
    assert_eq!(bench.events().len(), 1);
    bench.serve_at("socket");
    assert_eq!(bench.at_once([add()]), [""]);
}

#[test]
fn two_bitmaps_of_a_layer_do_not_have_one_name() {
    let bench = Bench::new();
    for (id, node) in [("d1", "n1"), ("d2", "n2")] {
        bench.named(id, node).unwrap();
    }
    let taken = "Bitmap already exists: b";
    // A persistent one is made in two steps: first the file has to know of it.
    assert_eq!(
        bench.at_once([
            bitmap("d1", "b", true),
            bitmap("n1", "b", true),
            bitmap("n1", "b", false),
            bitmap("n2", "b", true),
        ]),
        ["", taken, taken, ""]
    );
}
