//! Merges into a layer below the top, and several merges of one chain at a time.

use strata_graph::disk::Disk;

use super::{
    Bench,
    commit::bytes_of,
    live::{chain, completed, qemu_img, snapshot},
};
use crate::api::{BlockCommit, BlockJobSetSpeed, BlockStream, Cmd, Event, Reply};

impl Bench {
    /// The file names of the layers, from the top down, and whether they take writes.
    fn layers_of(&self, id: &str) -> Vec<(String, bool)> {
        let root = self.engine.find_disk(id).unwrap().root();
        let layers = root.chain().map(|node| {
            let name = node.path().file_name().unwrap().display().to_string();
            (name, node.is_writable())
        });
        layers.collect()
    }

    fn node_of(&self, file: &str) -> String {
        let root = self.engine.find_disk("virtio0").unwrap().root();
        let mut layers = root.chain();
        let found = layers.find(|node| node.path().file_name().unwrap() == file);
        found.unwrap().name().to_owned()
    }

    fn merge_into(&self, file: &str, base: Option<&str>, job: &str, speed: u64) -> Cmd {
        Cmd::BlockStream(BlockStream {
            job_id: Some(job.to_owned()),
            device: self.node_of(file),
            base_node: base.map(|base| self.node_of(base)),
            speed: Some(speed),
            ..BlockStream::default()
        })
    }

    fn hurry(&self, job: &str) {
        let device = job.to_owned();
        let cmd = Cmd::BlockJobSetSpeed(BlockJobSetSpeed { device, speed: 0 });
        self.command(cmd).unwrap();
    }
}

fn names(layers: &[(String, bool)]) -> Vec<&str> {
    layers.iter().map(|(name, _)| name.as_str()).collect()
}

/// [A] to [F], of which each holds something of its own.
fn six(bench: &Bench) -> (Disk, Vec<u8>) {
    let disk = chain(bench);
    for (byte, name) in [(5u8, "E"), (6, "F")] {
        let cmd = snapshot("virtio0", &bench.path(name));
        bench.command(cmd).unwrap();
        let at = u64::from(byte) << 18;
        bench.write(&disk, at, vec![byte; 256 << 10]).unwrap();
    }
    let seen = bench.read(&disk, 0, 4 << 20);
    (disk, seen)
}

#[test]
fn a_layer_in_the_middle_gets_what_lies_below_it() {
    let bench = Bench::new();
    let (disk, mut expected) = six(&bench);
    bench
        .command(bench.merge_into("D", Some("A"), "m", 65536))
        .unwrap();
    let mut fill = |at: usize, byte: u8| {
        bench.write(&disk, at as u64, vec![byte; 3 << 9]).unwrap();
        expected[at..][..3 << 9].fill(byte);
    };
    // Part of a cluster that the layers being merged hold, and a new top meanwhile.
    fill((256 << 10) + 512, 7);
    bench
        .command(snapshot("virtio0", &bench.path("G")))
        .unwrap();
    fill((384 << 10) + 512, 8);
    let layers = bench.layers_of("virtio0");
    assert_eq!(names(&layers), ["G", "F", "E", "D", "C", "B", "A"]);
    let writable = layers.iter().filter(|(_, writes)| *writes);
    assert_eq!(writable.count(), 2, "{layers:?}");
    bench.hurry("m");
    bench.until(completed);
    let layers = bench.layers_of("virtio0");
    assert_eq!(names(&layers), ["G", "F", "E", "D", "A"]);
    assert!(layers[1..].iter().all(|(_, writes)| !writes), "{layers:?}");
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    for gone in ["B", "C"] {
        std::fs::remove_file(bench.path(gone)).unwrap();
    }
    // To nothing at all, by the last layer that is merged.
    let cmd = Cmd::BlockStream(BlockStream {
        job_id: Some("n".to_owned()),
        device: bench.node_of("E"),
        bottom: Some(bench.node_of("A")),
        filter_node_name: Some("filter".to_owned()),
        backing_mask_protocol: Some(true),
        ..BlockStream::default()
    });
    bench.events();
    bench.command(cmd).unwrap();
    bench.until(completed);
    assert_eq!(names(&bench.layers_of("virtio0")), ["G", "F", "E"]);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    for name in ["G", "F", "E"] {
        qemu_img(&["check"], &bench.path(name));
    }
    assert!(bytes_of(&bench, "G") == expected);
}

#[test]
fn merges_of_parts_that_do_not_meet_run_at_a_time() {
    let bench = Bench::new();
    let (disk, expected) = six(&bench);
    let top = bench.merge_into("F", Some("D"), "upper", 65536);
    assert_eq!(bench.command(top), Ok(Reply::Done));
    let lower = bench.merge_into("C", Some("A"), "lower", 65536);
    assert_eq!(bench.command(lower), Ok(Reply::Done));
    let busy = |file: &str, job: &str| {
        let node = bench.node_of(file);
        format!("Node '{node}' is busy: block device is in use by block job: stream '{job}'")
    };
    let commit = |top: &str, base: &str| {
        let cmd = Cmd::BlockCommit(Box::new(BlockCommit {
            job_id: Some("c".to_owned()),
            device: "virtio0".to_owned(),
            top_node: Some(bench.node_of(top)),
            base_node: Some(bench.node_of(base)),
            ..BlockCommit::default()
        }));
        bench.command(cmd).unwrap_err().desc
    };
    let refused = |cmd| bench.command(cmd).unwrap_err().desc;
    for (error, file, job) in [
        (refused(bench.merge_into("D", None, "x", 0)), "D", "upper"),
        (
            refused(bench.merge_into("E", Some("C"), "x", 0)),
            "E",
            "upper",
        ),
        (commit("B", "A"), "C", "lower"),
        (commit("D", "C"), "E", "upper"),
    ] {
        assert_eq!(error, busy(file, job));
    }
    let ended = |events: &[Event]| {
        let ends = events
            .iter()
            .filter(|event| matches!(event, Event::JobCompleted(_, None)));
        ends.count() == 2
    };
    bench.hurry("upper");
    bench.until(completed);
    assert_eq!(
        names(&bench.layers_of("virtio0")),
        ["F", "D", "C", "B", "A"]
    );
    bench.hurry("lower");
    bench.until(ended);
    assert_eq!(names(&bench.layers_of("virtio0")), ["F", "D", "C", "A"]);
    assert!(bench.read(&disk, 0, 4 << 20) == expected);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    assert!(bytes_of(&bench, "F") == expected);
}

#[test]
fn a_merge_of_the_middle_may_be_cancelled() {
    let bench = Bench::new();
    let (disk, expected) = six(&bench);
    bench
        .command(bench.merge_into("D", None, "m", 65536))
        .unwrap();
    let id = "m".to_owned();
    bench
        .command(Cmd::JobCancel(crate::api::JobRef { id }))
        .unwrap();
    bench.until(completed);
    let layers = bench.layers_of("virtio0");
    assert_eq!(names(&layers), ["F", "E", "D", "C", "B", "A"]);
    assert!(layers[1..].iter().all(|(_, writes)| !writes), "{layers:?}");
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    assert!(bytes_of(&bench, "F") == expected);
}

#[test]
fn names_that_do_not_go_together_are_refused_in_qemus_words() {
    let bench = Bench::new();
    let _disk = chain(&bench);
    let name = |name: &str| Some(name.to_owned());
    let (a, d) = (bench.node_of("A"), bench.node_of("D"));
    let refused = |cmd: BlockStream| {
        let device = "virtio0".to_owned();
        let cmd = Cmd::BlockStream(BlockStream { device, ..cmd });
        bench.command(cmd).unwrap_err().desc
    };
    let both = |one, other| format!("'{one}' and '{other}' cannot be specified at the same time");
    let none = BlockStream::default;
    for (cmd, words) in [
        (
            BlockStream {
                base: name("A"),
                base_node: name(&a),
                ..none()
            },
            both("base", "base-node"),
        ),
        (
            BlockStream {
                base: name("A"),
                bottom: name(&a),
                ..none()
            },
            both("base", "bottom"),
        ),
        (
            BlockStream {
                base_node: name(&a),
                bottom: name(&a),
                ..none()
            },
            both("bottom", "base-node"),
        ),
        (
            BlockStream {
                bottom: name("x"),
                ..none()
            },
            "Cannot find device='' nor node-name='x'".to_owned(),
        ),
        (
            BlockStream {
                bottom: name(&a),
                backing_file: name("A"),
                ..none()
            },
            "backing file specified, but streaming the entire chain".to_owned(),
        ),
        (
            BlockStream {
                filter_node_name: name(&d),
                ..none()
            },
            format!("Invalid node-name: '{d}'"),
        ),
    ] {
        assert_eq!(refused(cmd), words);
    }
}
