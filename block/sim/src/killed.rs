//! The same on real files: a child process whose guests and operator work on a chain in a directory
//! is killed at random moments. The page cache outlives it, but tables that it had only in memory
//! do not: what its guests flushed is there, and the rest is old or new. Children take turns in how
//! they go to their files: through the page cache or past it, by helper threads or by the ring.

use std::{
    cell::{Cell, RefCell},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use strata_block::engine::{DiskSpec, Engine};
use strata_exec::{Executor, mem::SgList};
use strata_graph::{DiskOptions, Format, GuestDisk, chain::ImageOptions, create_image, disk::Disk};
use strata_storage::{Aio, Content};

use super::{
    guest::{Allowed, Guest, Load, Watch},
    journal::{self, Entry, Journal, Replay},
    model::Model,
    number,
    operator::{DISK, OldTop, Operator},
    oracle::{self, Chain, Contents},
    plan::{Plan, Random},
};

/// How long the test kills, in seconds, unless `STRATA_KILL_SECONDS` says something else.
const SECONDS: u64 = if cfg!(debug_assertions) { 5 } else { 35 };
/// Kills of one chain.
const KILLS: u64 = 40;
/// Of so many kills one is looked at by QEMU's tools.
const KILLS_PER_QEMU: u64 = 10;
/// Tells the child, by the environment, that it is one, and what to do.
const TASK: &str = "STRATA_KILLED_CHILD";

/// A chain that a child works on.
struct Victim {
    directory: tempfile::TempDir,
    top: PathBuf,
    spots: Vec<u64>,
    model: Model,
    random: Random,
}

/// A child's task: top layer, the number of its first write, a seed, and where it writes
/// most.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Task {
    top: PathBuf,
    spots: Vec<u64>,
    first_number: u64,
    next_layer: usize,
    seed: u64,
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    let seconds = number("STRATA_KILL_SECONDS").unwrap_or(SECONDS);
    let end = Instant::now() + Duration::from_secs(seconds);
    let seed = number("STRATA_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}; timing decides too, so that it may not fail again");
    let mut random = Random(seed);
    let (mut kills, mut flushed) = (0, 0);
    while Instant::now() < end {
        let mut victim = Victim::new(random.next());
        for _ in 0..KILLS {
            flushed += victim.kill();
            kills += 1;
            victim.examine(kills % KILLS_PER_QEMU == 0);
            if Instant::now() >= end {
                break;
            }
        }
    }
    println!("{kills} kills, {flushed} acknowledged flushes");
    assert!(flushed > 0, "{kills} kills, and no flush");
}

/// Not a test: what the test above runs, and kills.
#[test]
fn child() {
    if let Ok(task) = std::env::var(TASK) {
        work(&serde_json::from_str(&task).unwrap());
    }
}

impl Victim {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let plan = Plan::new(directory.path(), &mut random, true);
        let exec = Executor::new().unwrap();
        let (top, size) = plan
            .layers
            .last()
            .map(|layer| (layer.path.clone(), layer.size))
            .unwrap();
        for layer in plan.layers {
            let inner = exec.clone();
            match layer.image {
                Some(image) => {
                    exec.block_on(
                        async move { create_image(&inner, &layer.path, image).await.unwrap() },
                    )
                }
                None => std::fs::write(&layer.path, vec![0; layer.size as usize]).unwrap(),
            }
        }
        Self {
            directory,
            top,
            spots: (0..4).map(|_| random.below(size)).collect(),
            model: Model::new(size),
            random,
        }
    }

    /// Lets a child work for a moment, and kills it; returns how many flushes it has acknowledged.
    fn kill(&mut self) -> u64 {
        let task = Task {
            top: self.top.clone(),
            spots: self.spots.clone(),
            first_number: self.model.next_number(),
            next_layer: std::fs::read_dir(self.directory.path()).unwrap().count(),
            seed: self.random.next(),
        };
        let (mut child, entries) = spawn(&task);
        let mut replay = Replay::default();
        let ready = entries.recv().expect("the child opens the chain");
        assert_eq!(ready, Entry::Ready);
        std::thread::sleep(Duration::from_micros(self.random.below(60_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(
            status.code().is_none(),
            "the child ended by itself: {status}"
        );
        for entry in entries {
            replay.apply(entry, &mut self.model);
        }
        if let Some(top) = replay.top {
            self.top = top.into();
        }
        self.model.crashed();
        replay.flushed
    }

    /// Opens what was left: it checks clean but for leaks, and holds what the model knows.
    fn examine(&mut self, with_qemu: bool) {
        // The kernel may be writing for a ring whose process has died. To open the files waits for
        // that, and puts nothing right where nothing may be written.
        let (engine, _) = open(&self.top, Way::default(), true);
        assert!(engine.shut_down().is_empty());
        // As they were left: opening puts right what it may.
        let files: Contents = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                (
                    path.clone(),
                    Content::from(&std::fs::read(path).unwrap()[..]),
                )
            })
            .collect();
        let (engine, _) = open(&self.top, Way::default(), false);
        let chain = Chain::of(&engine.find_disk(DISK).unwrap().root());
        oracle::check(&files, &chain);
        let size = engine.find_disk(DISK).unwrap().root().size();
        self.model.found_size(size);
        let found = read_all(&engine, size);
        let before = self.model.before_read(0, size);
        self.model.check(&before, &found);
        self.model.found(&found);
        if with_qemu {
            oracle::check_with_qemu(&files, &chain, &found);
        }
        let errors = engine.shut_down();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// Starts a child, and a thread that reads its journal to the end.
fn spawn(task: &Task) -> (Child, Receiver<Entry>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::child", "--nocapture"])
        .env(TASK, serde_json::to_string(task).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, entries) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Some(entry) = journal::parse(&line) {
                let _ = sender.send(entry);
            }
        }
    });
    (child, entries)
}

/// How a child reads and writes its files.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    direct: bool,
    aio: Aio,
}

impl Way {
    /// Each in its turn, as seeds come.
    fn of(seed: u64) -> Self {
        Self {
            direct: seed & 1 != 0,
            aio: if seed & 2 == 0 {
                Aio::Threads
            } else {
                Aio::IoUring
            },
        }
    }
}

fn open(top: &Path, way: Way, read_only: bool) -> (Rc<Engine>, Disk) {
    let engine = Engine::new(|_| {}).unwrap();
    let mut start = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open(top).unwrap(), &mut start).unwrap();
    let format = match &start {
        b"QFI\xfb" => Format::Qcow2,
        b"QED\0" => Format::Qed,
        _ => Format::Raw,
    };
    let image = ImageOptions {
        format: Some(format),
        discard: true,
        read_only,
        direct: way.direct,
        aio: way.aio,
        ..ImageOptions::default()
    };
    let disk = DiskOptions {
        id: DISK.to_owned(),
        discard: true,
        ..DiskOptions::default()
    };
    let path = top.to_owned();
    let disk = engine.open_disk(DiskSpec { path, image, disk }).unwrap();
    (engine, disk)
}

fn read_all(engine: &Rc<Engine>, size: u64) -> Vec<u8> {
    let data = SgList::zeroed(size as usize);
    let (root, into) = (engine.find_disk(DISK).unwrap().root(), data.clone());
    engine
        .exec()
        .block_on(async move { root.read(0, into).await.unwrap() });
    data.to_vec()
}

/// Works until it is killed.
fn work(task: &Task) {
    let (engine, disk) = open(&task.top, Way::of(task.seed), false);
    let guest_disk: Rc<GuestDisk> = engine.find_disk(DISK).unwrap();
    let size = guest_disk.root().size();
    let mut model = Model::new(size);
    model.found(&read_all(&engine, size));
    model.number_from(task.first_number);
    let mut random = Random(task.seed);
    let allowed = Rc::new(Cell::new(Allowed::Nothing));
    let marks = Rc::new(Cell::new(0));
    let model = Rc::new(RefCell::new(model));
    journal::ready();
    let old_top = OldTop::default();
    let load = Rc::new(Load {
        disk,
        watch: Watch::Journal(Journal(guest_disk, old_top.clone())),
        model: model.clone(),
        allowed: allowed.clone(),
        marks: marks.clone(),
        spots: Rc::new(task.spots.clone()),
        longest: 7,
        left: Cell::new(u64::MAX),
    });
    for _ in 0..4 {
        let guest = Guest {
            load: load.clone(),
            random: Cell::new(random.next()),
        };
        Rc::new(guest).next();
    }
    let operator = Operator {
        engine: engine.clone(),
        random: RefCell::new(random),
        directory: task.top.parent().unwrap().to_owned(),
        simulated: None,
        next_layer: Rc::new(Cell::new(task.next_layer)),
        allowed,
        marks,
        model,
        writes_journal: true,
        changed_below: Rc::default(),
        old_top,
        live: Rc::default(),
        stop: Rc::default(),
    };
    engine.exec().block_on(async move { operator.work().await });
}
