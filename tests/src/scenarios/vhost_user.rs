//! A guest of QEMU on a disk of `strata serve`: snapshots and a merge under it, as under our own.

use super::layers::{self, History, Merge};
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::frontend::Frontend;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use crate::serial::Serial;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BOOT_SECONDS: u64 = 180;
const QUEUES: u16 = 2;
/// What the disk grows to. Only in the end: which blocks the guest writes follows from the size.
const NEW_SIZE: u64 = 512 << 20;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let a = fixture.dir.join("A");
    Tool::StrataImg.create(&a, "qcow2", "256M")?;
    let mut history = History::default();

    let mut site = Site::open(fixture, "first", &a)?;
    let mut guest = site.boot(fixture, "first", fixture.seed, &history)?;
    site.machine.wait_start(1, BOOT_SECONDS)?;
    fixture.verified(
        "boot",
        "QEMU's guest on a vhost-user-blk device with 2 queues",
    );
    let layers = layers::make_chain(fixture, &mut site.machine, &a)?;
    let merge = Merge::start(&mut site.machine, "virtio0", Some("A"))?;
    merge.watch(fixture, &mut site.machine, 2)?;
    // The rings stop, and start where they stopped, with requests under way.
    guest.command("stop")?;
    guest.command("cont")?;
    merge.release(&mut site.machine)?;
    merge.wait(&mut site.machine)?;
    fixture.verified(
        "merge to A",
        "while the guest writes, and stops and goes on",
    );
    layers::work_quietly(&mut site.machine, Duration::from_secs(2))?;
    guest.power_off(60)?;
    site.machine.serial.update()?;
    ensure(site.machine.serial.has_passed, || {
        "the guest went off without ending its work".to_owned()
    })?;
    history.add(fixture.seed, &site.machine.serial);

    fixture.say(
        "kill",
        "a second machine on the same export, killed while it writes",
    );
    let guest = site.boot(fixture, "killed", fixture.seed + 1, &history)?;
    site.machine.wait_start(1, BOOT_SECONDS)?;
    layers::work_quietly(&mut site.machine, Duration::from_secs(3))?;
    guest.kill()?;
    site.machine.serial.update()?;
    history.add(fixture.seed + 1, &site.machine.serial);

    fixture.say("verify", "a third one, to verify every block");
    let mut guest = site.boot(fixture, "third", fixture.seed + 2, &history)?;
    site.machine.wait_start(1, BOOT_SECONDS)?;
    let verified = site.machine.serial.verified;
    let verified = verified.context("the guest did not say what it verified")?;
    ensure(verified.acknowledged > 0, || format!("{verified:?}"))?;
    let checked = layers::mib(verified.acknowledged << 12);
    fixture.verified(
        "third machine",
        format!("{checked}: every acknowledged block is there"),
    );
    site.resize(NEW_SIZE)?;
    site.wait_size(NEW_SIZE)?;
    // QEMU does not listen while its guest stands still.
    guest.command("stop")?;
    site.resize(2 * NEW_SIZE)?;
    guest.command("cont")?;
    site.wait_size(2 * NEW_SIZE)?;
    fixture.verified(
        "block_resize",
        "QEMU's guest sees its disk grow, also after a pause",
    );
    guest.power_off(60)?;

    site.machine
        .qmp
        .run("block-export-del", json!({"id": "disk"}))?;
    let deleted = "BLOCK_EXPORT_DELETED";
    site.machine
        .qmp
        .wait_event(deleted, 0, Duration::from_secs(10))?;
    site.machine.hmp.run("quit")?;
    site.machine.wait_success(30)?;
    ensure(!site.socket.exists(), || {
        "the socket was left behind".to_owned()
    })?;
    let top: &Path = &layers[3];
    layers::check_chain(top, &[top, &layers[0]])?;
    layers::check_images(&[top, &layers[0]], false)?;
    fixture.verified("images", "D on A, both clean for both tools");
    Ok(())
}

/// `strata serve` with one export.
struct Site {
    machine: Machine,
    socket: PathBuf,
}

impl Site {
    fn open(fixture: &Fixture, name: &str, disk: &Path) -> Outcome<Site> {
        let socket = fixture.dir.join("disk.sock");
        let options = [
            "--disk".to_owned(),
            format!("file={},format=qcow2,id=virtio0", disk.display()),
            "--export".to_owned(),
            format!(
                "type=vhost-user-blk,disk=virtio0,id=disk,addr=unix:{},writable=on,num-queues={QUEUES}",
                socket.display()
            ),
        ];
        let machine = Machine::serve(
            fixture,
            name,
            &options,
            &fixture.logs.join("no-guest.serial"),
        )?;
        Ok(Site { machine, socket })
    }

    fn resize(&mut self, size: u64) -> Outcome<()> {
        let arguments = json!({"device": "virtio0", "size": size});
        self.machine.qmp.run("block_resize", arguments).map(drop)
    }

    /// Waits until the guest has seen the disk's new size.
    fn wait_size(&mut self, size: u64) -> Outcome<()> {
        let seen = |serial: &Serial| serial.new_size == Some(size);
        self.machine.wait_serial("the new size", 30, seen)
    }

    /// Boots a guest that verifies the history and goes on to write.
    fn boot(
        &mut self,
        fixture: &Fixture,
        name: &str,
        seed: u64,
        history: &History,
    ) -> Outcome<Frontend> {
        let mut workload = vec!["mode=write".to_owned(), format!("seed={seed}")];
        workload.push("disks=vda".to_owned());
        workload.extend(history.word());
        let boot = Boot {
            workload,
            // So that the kernel says when a disk has another size.
            kernel: vec!["loglevel=6".to_owned()],
            ..Boot::default()
        };
        let serial = fixture.logs.join(format!("{name}.serial"));
        self.machine.follow(&serial);
        Frontend::start(fixture, name, &boot, (&self.socket, QUEUES), &serial)
    }
}
