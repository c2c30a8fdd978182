//! Drives whose medium can be another one: what is in them, and their trays.

use std::{path::Path, rc::Rc};

use strata_graph::{
    Backend, Format, GuestDisk, Hold, Node, Purpose,
    chain::ImageOptions,
    disk::{Disk, Tray},
};
use strata_storage::error::Result;

use super::{DiskOptions, DiskSpec, Engine, ErrorPolicy, refused, shutdown};
use crate::api::{
    BlockdevChangeMedium, BlockdevInsertMedium, ChangeReadOnlyMode, CmdError, DriveName, DriveRef,
    Event, OpenTray, Reply,
};

type Outcome<T> = std::result::Result<T, CmdError>;

/// A drive that has a tray.
struct Removable {
    backend: Rc<Backend>,
    tray: Rc<dyn Tray>,
    /// As the command calls it.
    name: DriveName,
}

/// A medium that has been taken out of its drive.
struct Taken {
    disk: Rc<GuestDisk>,
    /// `blockdev-add` has opened it.
    was_added: bool,
    hold: Hold,
}

impl Engine {
    /// A drive without a medium, with the options of the disks that will be in it. What the drive's
    /// device gets.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn add_empty_drive(&self, spec: DiskSpec) -> Result<Disk> {
        let id = self.reserve_id(&spec)?;
        let options = super::with_image_options(spec.disk, &spec.image);
        let throttling = options.throttling.clone();
        let backend = Backend::empty(self.exec.clone(), (options, spec.image), id);
        self.throttle(&backend, &throttling);
        self.backends.borrow_mut().push(backend.clone());
        Ok(Disk::new(backend))
    }

    /// The drive called `id` has a tray from now on: media can be taken out and put in.
    pub fn set_tray(&self, id: &str, tray: Rc<dyn Tray>) {
        let backends = self.backends.borrow();
        let found = backends.iter().find(|one| one.options().id == id);
        found.expect("a device's drive").set_tray(tray);
    }

    /// The guest has opened or closed the tray of the drive called `id`.
    pub fn tray_moved(&self, id: &str, open: bool) {
        let backends = self.backends.borrow();
        let found = backends.iter().find(|one| one.options().id == id);
        let path = found.map(|backend| backend.device());
        drop(backends);
        (self.events.borrow_mut())(Event::TrayMoved {
            device: id.to_owned(),
            path: path.unwrap_or_default(),
            open,
        });
    }

    /// `eject`: opens the tray and takes out what is in it.
    pub(super) async fn eject(&self, cmd: OpenTray) -> Outcome<Reply> {
        let drive = self.find_removable(cmd.drive()?)?;
        self.open_tray_of(&drive, cmd.force.unwrap_or(false))?;
        self.remove_from(&drive).await
    }

    /// `blockdev-open-tray`.
    pub(super) fn open_tray(&self, cmd: &OpenTray) -> Outcome<()> {
        let drive = self.find_removable(cmd.drive()?)?;
        self.open_tray_of(&drive, cmd.force.unwrap_or(false))
    }

    /// `blockdev-close-tray`.
    pub(super) fn close_tray(&self, cmd: &DriveRef) -> Outcome<()> {
        self.close_tray_of(&self.find_removable(cmd.drive()?)?);
        Ok(())
    }

    /// `blockdev-remove-medium`.
    pub(super) async fn remove_medium(&self, cmd: DriveRef) -> Outcome<Reply> {
        let drive = self.find_removable(cmd.drive()?)?;
        self.remove_from(&drive).await
    }

    /// `blockdev-insert-medium`.
    pub(super) fn insert_medium(&self, cmd: &BlockdevInsertMedium) -> Outcome<()> {
        let drive = self.find_removable(cmd.drive()?)?;
        drive.check_empty()?;
        let name = &cmd.node_name;
        let (disk, layer) = self
            .find_layer(name)
            .ok_or_else(|| refused(format!("Node '{name}' not found")))?;
        let is_free = |backend: &&Rc<Backend>| {
            let is_added = backend.options().id.is_empty() && backend.device().is_empty();
            backend.has(&disk) && is_added && Rc::ptr_eq(&disk.root(), &layer)
        };
        let backend = self.backends.borrow().iter().find(is_free).cloned();
        let backend = backend.ok_or_else(|| refused(format!("Node '{name}' is already in use")))?;
        let hold = self.hold_unused(&disk)?;
        // The same layers under the drive's name.
        self.backends
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, &backend));
        self.disks
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, &disk));
        let image = disk.image_options().clone();
        drive.backend.set_was_added(true);
        self.insert(&drive, layer, image);
        drop(hold);
        Ok(())
    }

    /// `blockdev-change-medium`: opens the new medium before it lets go of the old one, so that
    /// the drive stays as it is if there is something wrong with it.
    pub(super) async fn change_medium(&self, cmd: BlockdevChangeMedium) -> Outcome<Reply> {
        let drive = self.find_removable(cmd.drive()?)?;
        let force = cmd.force.unwrap_or(false);
        if cmd.read_only_mode == Some(ChangeReadOnlyMode::ReadWrite)
            && drive.backend.options().read_only
        {
            return Err(refused(format!(
                "Device '{}' only reads: its media are opened read-only",
                drive.name
            )));
        }
        let image = ImageOptions {
            format: cmd.format.as_deref().map(format_of).transpose()?,
            backing_format: None,
            node_name: None,
            ..drive.backend.image_options().clone()
        };
        let spec = DiskSpec {
            path: Path::new(&cmd.filename).to_owned(),
            image: image.clone(),
            disk: drive.backend.options().clone(),
        };
        let name = self.opener.names().made_up();
        let opened = self.open_chain(name, &spec).await;
        let root = opened.map_err(|error| refused(error.to_string()))?;
        match self.change_to(&drive, root.clone(), image, force) {
            Ok(old) => {
                self.put_away(old).await;
                Ok(Reply::Done)
            }
            Err(error) => {
                shutdown::close_layers(&root).await;
                Err(error)
            }
        }
    }

    async fn remove_from(&self, drive: &Removable) -> Outcome<Reply> {
        let old = self.take_from(drive)?;
        self.put_away(old).await;
        Ok(Reply::Done)
    }

    /// All at once, so that nobody finds the drive half changed.
    fn change_to(
        &self,
        drive: &Removable,
        root: Rc<Node>,
        image: ImageOptions,
        force: bool,
    ) -> Outcome<Option<Taken>> {
        if self.ending.get() {
            return Err(refused("The disks are being closed"));
        }
        self.open_tray_of(drive, force)?;
        let old = self.take_from(drive)?;
        self.insert(drive, root, image);
        self.close_tray_of(drive);
        Ok(old)
    }

    /// Puts what lies on `root` into a drive that is empty.
    fn insert(&self, drive: &Removable, root: Rc<Node>, image: ImageOptions) {
        let options = super::with_image_options(drive.backend.options().clone(), &image);
        let disk = self.new_disk(root, (options, image), None);
        self.disks.borrow_mut().push(disk.clone());
        drive.backend.insert(disk);
    }

    /// Takes out what is in a drive.
    fn take_from(&self, drive: &Removable) -> Outcome<Option<Taken>> {
        drive.check_open()?;
        let Some(disk) = drive.backend.disk() else {
            return Ok(None);
        };
        let hold = self.hold_unused(&disk)?;
        drive.backend.take_medium();
        self.disks
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, &disk));
        Ok(Some(Taken {
            disk,
            was_added: drive.backend.set_was_added(false),
            hold,
        }))
    }

    /// Closes what was in a drive once its requests have ended. What `blockdev-add` has opened
    /// stays open, and is found by its node name again.
    async fn put_away(&self, taken: Option<Taken>) {
        let Some(Taken {
            disk,
            was_added,
            hold,
        }) = taken
        else {
            return;
        };
        if !was_added {
            for error in shutdown::close(&disk).await {
                tracing::error!(%error, "a medium could not be closed");
            }
            return;
        }
        let drained = disk.gate().drain().await;
        let spec = DiskSpec {
            image: disk.image_options().clone(),
            disk: DiskOptions {
                errors: ErrorPolicy::QEMU,
                ..DiskOptions::default()
            },
            ..DiskSpec::default()
        };
        self.attach(disk.root(), spec, None);
        drop((drained, hold));
    }

    /// Holds all layers of a disk that nobody uses but its device.
    pub(super) fn hold_unused(&self, disk: &Rc<GuestDisk>) -> Outcome<Hold> {
        self.check_not_exported(disk)?;
        Ok(Hold::take(disk, disk.root().chain(), Purpose::Close)?)
    }

    fn open_tray_of(&self, drive: &Removable, force: bool) -> Outcome<()> {
        if drive.tray.is_open() {
            return Ok(());
        }
        let locked = drive.tray.is_locked();
        if locked {
            drive.tray.ask_to_eject(force);
        }
        if locked && !force {
            return Err(refused(format!(
                "Device '{}' is locked and force was not specified, wait for tray to open and try \
                 again",
                drive.name
            )));
        }
        drive.tray.set_open(true);
        self.tray_moved(&drive.backend.options().id, true);
        Ok(())
    }

    fn close_tray_of(&self, drive: &Removable) {
        if drive.tray.is_open() {
            drive.tray.set_open(false);
            self.tray_moved(&drive.backend.options().id, false);
        }
    }

    fn find_removable(&self, name: DriveName) -> Outcome<Removable> {
        let backend = self.find_drive(&name)?;
        let tray = backend.tray();
        let tray = tray.ok_or_else(|| refused(format!("Device '{name}' is not removable")))?;
        Ok(Removable {
            backend,
            tray,
            name,
        })
    }

    /// The drive that a command means.
    ///
    /// # Errors
    /// There is none, in QEMU's words.
    pub(super) fn find_drive(&self, name: &DriveName) -> Outcome<Rc<Backend>> {
        let backends = self.backends.borrow();
        let named = |backend: &&Rc<Backend>| {
            let has = |id: &str| !id.is_empty() && backend.options().id == id;
            match name {
                DriveName::Device(id) => has(id),
                DriveName::Id(id) => is_device(&backend.device(), id) || has(id),
            }
        };
        let found = backends.iter().find(named).cloned();
        found.ok_or_else(|| CmdError::device_not_found(name))
    }
}

impl Removable {
    /// Whether a medium can be taken out.
    fn check_open(&self) -> Outcome<()> {
        if self.tray.is_open() {
            return Ok(());
        }
        let desc = format!("Tray of device '{}' is not open", self.name);
        Err(refused(desc))
    }

    /// Whether a medium can be put in.
    fn check_empty(&self) -> Outcome<()> {
        self.check_open()?;
        let name = &self.name;
        if self.backend.disk().is_some() {
            let desc = format!("There already is a medium in device '{name}'");
            return Err(refused(desc));
        }
        Ok(())
    }
}

/// Whether `id` names the device at `path`, as its id or as a path.
fn is_device(path: &str, id: &str) -> bool {
    let of_id = |rest: &str| rest.split('/').next() == Some(id);
    !path.is_empty() && (path == id || path.strip_prefix("/machine/peripheral/").is_some_and(of_id))
}

fn format_of(name: &str) -> Outcome<Format> {
    name.parse()
        .map_err(|_| refused(format!("Unknown driver '{name}'")))
}
