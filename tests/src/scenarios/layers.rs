//! A guest that writes to two layered disks, and what is done to them.

use crate::error::{Context, Failed, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::{self, Tool};
use crate::machine::{Boot, Machine};
use crate::qmp::Event;
use crate::serial::{Serial, Verified};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How much the guest has to write into a layer before the next thing happens.
pub const LAYER_BYTES: u64 = 12 << 20;
/// While a merge is being looked at, it is held down to so many bytes per second.
pub const WATCHED_SPEED: &str = "4M";
const BOOT_SECONDS: u64 = 180;
const JOB_TIMEOUT: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(100);

/// A run of the workload: its seed, and how far it reported to be flushed.
#[derive(Clone)]
struct Run {
    seed: u64,
    flushed: Vec<u32>,
}

/// The runs so far on the same disks.
#[derive(Default)]
pub struct History {
    runs: Vec<Run>,
}

impl History {
    /// Records how far a run came.
    pub fn add(&mut self, seed: u64, serial: &Serial) {
        let flushed = serial.flushed.clone();
        if !flushed.is_empty() {
            self.runs.push(Run { seed, flushed });
        }
    }

    /// The workload's parameter for it; `None` while it is empty.
    pub fn word(&self) -> Option<String> {
        let runs = self.runs.iter().map(|Run { seed, flushed }| {
            let counts: Vec<String> = flushed.iter().map(u32::to_string).collect();
            format!("{seed}:{}", counts.join(","))
        });
        let runs: Vec<String> = runs.collect();
        (!runs.is_empty()).then(|| format!("history={}", runs.join(";")))
    }
}

/// The two disks of a guest: the topmost file of each and its format.
#[derive(Clone)]
pub struct Disks {
    /// `virtio0`.
    pub virtio: (PathBuf, &'static str),
    /// More options of its `--disk`, each after a comma.
    pub virtio_options: &'static str,
    /// `ide0-hd0`.
    pub ide: (PathBuf, &'static str),
    /// More words for the guest's kernel.
    pub kernel: Vec<String>,
    /// More options of `strata run`.
    pub options: Vec<String>,
}

impl Disks {
    /// Creates an empty image `A` for virtio0, and a raw one in a directory `old-path` for
    /// ide0-hd0.
    pub fn create(fixture: &Fixture, virtio_format: &'static str) -> Outcome<Disks> {
        let old_path = fixture.dir.join("old-path");
        std::fs::create_dir_all(&old_path).context(old_path.display())?;
        let (virtio, ide) = (fixture.dir.join("A"), old_path.join("disk.img"));
        // Ours creates what it has a format of its own for.
        let tool = if virtio_format == "raw" {
            Tool::QemuImg
        } else {
            Tool::StrataImg
        };
        tool.create(&virtio, virtio_format, "256M")?;
        Tool::QemuImg.create(&ide, "raw", "128M")?;
        Ok(Disks {
            virtio: (virtio, virtio_format),
            virtio_options: "",
            ide: (ide, "raw"),
            kernel: Vec::new(),
            options: Vec::new(),
        })
    }

    /// What to boot, for these parameters of the workload and a history.
    pub fn boot(&self, mut workload: Vec<String>, history: &History) -> Boot {
        let disk = |(path, format): &(PathBuf, &str), interface| {
            format!("file={},format={format},if={interface}", path.display())
        };
        workload.push("disks=vda,sda".to_owned());
        workload.extend(history.word());
        let virtio = disk(&self.virtio, "virtio") + self.virtio_options;
        let disks = vec![virtio, disk(&self.ide, "ide")];
        Boot {
            disks,
            workload,
            kernel: self.kernel.clone(),
            options: self.options.clone(),
            ..Boot::default()
        }
    }

    /// Boots a guest that verifies what the history lists and then keeps writing.
    pub fn start_writing(
        &self,
        fixture: &Fixture,
        name: &str,
        seed: u64,
        history: &History,
    ) -> Outcome<Machine> {
        let words = vec!["mode=write".to_owned(), format!("seed={seed}")];
        let mut machine = Machine::start(fixture, name, &self.boot(words, history))?;
        machine.wait_start(1, BOOT_SECONDS)?;
        Ok(machine)
    }

    /// Boots a guest that verifies what the history lists and powers off.
    pub fn verify(&self, fixture: &Fixture, name: &str, history: &History) -> Outcome<Verified> {
        let boot = self.boot(vec!["mode=verify".to_owned()], history);
        let mut machine = Machine::start(fixture, name, &boot)?;
        machine.wait_success(BOOT_SECONDS)?;
        ensure(machine.serial.has_passed, || {
            "the guest did not finish its check".to_owned()
        })?;
        machine
            .serial
            .verified
            .context("the guest did not say what it verified")
    }

    /// The second boot after an orderly end, which leaves exactly what was acknowledged.
    pub fn verify_after_power_off(&self, fixture: &mut Fixture, history: &History) -> Outcome<()> {
        let verified = self.verify(fixture, "second", history)?;
        ensure(verified.acknowledged > 0 && verified.newer == 0, || {
            format!("after a power-off, all must be as acknowledged: {verified:?}")
        })?;
        let checked = mib(verified.acknowledged << 12);
        fixture.verified(
            "second boot",
            format!("{checked}: every acknowledged block is there"),
        );
        Ok(())
    }
}

/// `N MiB`.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The last component of a path.
pub fn short(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Waits until the guest has written [`LAYER_BYTES`] into an image.
pub fn fill_layer(machine: &mut Machine, path: &Path) -> Outcome<()> {
    let what = format!("{} in {}", mib(LAYER_BYTES), short(path));
    machine.wait(&what, 120, |_| Ok(image::allocated(path)? >= LAYER_BYTES))
}

/// Lets the guest work for a while.
pub fn work_quietly(machine: &mut Machine, time: Duration) -> Outcome<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        machine.serial.update()?;
        thread::sleep(POLL);
    }
    Ok(())
}

/// `snapshot_blkdev DISK FILE qcow2` on the human monitor.
pub fn snapshot(machine: &mut Machine, disk: &str, file: &Path) -> Outcome<()> {
    machine
        .hmp
        .run(&format!("snapshot_blkdev {disk} {} qcow2", file.display()))?;
    ensure(machine.has_open(file)?, || {
        format!("strata does not have {} open", file.display())
    })
}

/// Three snapshots of virtio0: A -> B -> C -> D, each with data of its own. Returns the four files.
pub fn make_chain(fixture: &Fixture, machine: &mut Machine, a: &Path) -> Outcome<[PathBuf; 4]> {
    let layers = ["A", "B", "C", "D"].map(|name| fixture.dir.join(name));
    ensure(layers[0] == a, || {
        format!("{} is not the first layer", a.display())
    })?;
    for pair in layers.windows(2) {
        fill_layer(machine, &pair[0])?;
        snapshot(machine, "virtio0", &pair[1])?;
        let held = mib(image::allocated(&pair[0])?);
        let (below, above) = (short(&pair[0]), short(&pair[1]));
        fixture.say(
            "snapshot",
            format!("virtio0: {below} ({held}) is now below {above}"),
        );
    }
    fill_layer(machine, &layers[3])?;
    Ok(layers)
}

/// `system_powerdown`: the guest ends its work and powers off through ACPI, and strata exits with
/// 0.
pub fn power_off(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    machine.hmp.run("system_powerdown")?;
    machine.wait_success(60)?;
    let has_passed = machine.serial.has_passed;
    ensure(has_passed, || {
        "the guest went off without ending its work".to_owned()
    })?;
    fixture.say(
        "power",
        "the guest has powered off, strata has ended with 0",
    );
    fixture.verified("power-off", "through ACPI, exit status 0");
    Ok(())
}

/// What `info block-jobs` shows of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Asks `info block-jobs` for the job of a disk; `None` when there is no such job.
pub fn progress(machine: &mut Machine, disk: &str) -> Outcome<Option<Progress>> {
    let answer = machine.hmp.run("info block-jobs")?;
    let start = format!("Streaming device {disk}: Completed ");
    let Some(rest) = answer.lines().find_map(|line| line.strip_prefix(&start)) else {
        return Ok(None);
    };
    let numbers: Vec<u64> = rest
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [done, total, ..] = numbers[..] else {
        return Err(Failed(format!("info block-jobs: {answer}")));
    };
    Ok(Some(Progress { done, total }))
}

/// A merge that has been started.
pub struct Merge {
    /// Its disk.
    pub disk: String,
    /// When it was started.
    pub began: Instant,
    /// Events before it, which are not its own.
    skip: usize,
}

impl Merge {
    /// `block_stream DISK [BASE]` on the human monitor, then held down in speed.
    pub fn start(machine: &mut Machine, disk: &str, base: Option<&str>) -> Outcome<Merge> {
        let skip = machine.qmp.events().len();
        let began = Instant::now();
        let base = base.map(|base| format!(" {base}")).unwrap_or_default();
        machine.hmp.run(&format!("block_stream {disk}{base}"))?;
        machine
            .hmp
            .run(&format!("block_job_set_speed {disk} {WATCHED_SPEED}"))?;
        Ok(Merge {
            disk: disk.to_owned(),
            began,
            skip,
        })
    }

    /// Polls `info block-jobs` until it has been seen to advance `times` times.
    pub fn watch(&self, fixture: &Fixture, machine: &mut Machine, times: usize) -> Outcome<()> {
        let mut seen: Vec<Progress> = Vec::new();
        let end = Instant::now() + JOB_TIMEOUT;
        while seen.len() <= times {
            machine.serial.update()?;
            let now = progress(machine, &self.disk)?;
            let now = now.context(format!("the job of {} ended unseen: {seen:?}", self.disk))?;
            match seen.last() {
                Some(last) if now.done == last.done => {}
                Some(last) if now.done < last.done => {
                    return Err(Failed(format!("a job went back: {seen:?}, then {now:?}")));
                }
                _ => {
                    let (done, total) = (mib(now.done), mib(now.total));
                    fixture.say("", format!("info block-jobs: {done} of {total}"));
                    seen.push(now);
                }
            }
            ensure(Instant::now() < end, || {
                format!("the job does not advance: {seen:?}")
            })?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets it run at full speed.
    pub fn release(&self, machine: &mut Machine) -> Outcome<()> {
        machine
            .hmp
            .run(&format!("block_job_set_speed {} 0", self.disk))
            .map(drop)
    }

    /// Waits for `BLOCK_JOB_COMPLETED`, which must report success.
    pub fn wait(&self, machine: &mut Machine) -> Outcome<Event> {
        let end = Instant::now() + JOB_TIMEOUT;
        let event = loop {
            machine.serial.update()?;
            match machine
                .qmp
                .wait_event("BLOCK_JOB_COMPLETED", self.skip, POLL)
            {
                Ok(event) => break event,
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {}
            }
        };
        let data = &event.value["data"];
        let is_right = data["device"] == json!(self.disk)
            && data["type"] == "stream"
            && data["len"] == data["offset"]
            && data.get("error").is_none();
        ensure(is_right, || {
            format!("not a successful completion: {}", event.value)
        })?;
        Ok(event)
    }

    /// The job's events from its start to its completion, in short.
    pub fn events(&self, machine: &Machine) -> Vec<String> {
        let mut names = Vec::new();
        for event in machine.qmp.events().iter().skip(self.skip) {
            names.push(event.summary());
            if event.name() == "BLOCK_JOB_COMPLETED" {
                break;
            }
        }
        names
    }
}

/// Checks every image with both tools: no errors, and no leaks unless `leaks_allowed`.
pub fn check_images(images: &[&Path], leaks_allowed: bool) -> Outcome<u64> {
    let mut most = 0;
    for path in images {
        for tool in Tool::ALL {
            let leaks = tool.check(path)?;
            ensure(leaks == 0 || leaks_allowed, || {
                format!(
                    "{} check: {leaks} leaked clusters in {}",
                    tool.name(),
                    path.display()
                )
            })?;
            most = most.max(leaks);
        }
    }
    Ok(most)
}

/// Fails unless both tools see exactly this chain, topmost first.
pub fn check_chain(top: &Path, expected: &[&Path]) -> Outcome<()> {
    for tool in Tool::ALL {
        let found: Vec<PathBuf> = tool.chain(top)?.into_iter().map(|(path, _)| path).collect();
        ensure(found == expected, || {
            format!(
                "{}: the chain is {found:?}, expected {expected:?}",
                tool.name()
            )
        })?;
    }
    Ok(())
}
