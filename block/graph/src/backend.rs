//! [`Backend`]: a disk as the device that has it as its drive sees it.
//!
//! What concerns the guest's requests and nobody else's is here: throttling, and what is done about
//! errors. Jobs and exports go past it. A request waits here outside the disk's gate, so whatever
//! drains the disk (a snapshot, a resize, the end of a job) does not wait for it, and it finds the
//! layers that there are when it goes on. A request is for the disk that was in the drive when it
//! came, and fails where that has been taken out.

mod policy;
mod throttle;

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use strata_exec::{Executor, Queue, Spawner, sync::WaitQueue};
use strata_storage::error::IoError;

use self::throttle::{Member, Way};
pub use self::{
    policy::{ErrorPolicy, OnRequestError},
    throttle::{Limit, Limits, ThrottleGroup, ThrottleLimits, Throttling},
};
use crate::{
    DiskOptions, ErrorAction, GuestDisk, Name,
    chain::ImageOptions,
    disk::{Completion, DiskInfo, Done, ExtentsDone, Op, Request, Submit, Tray},
    named_request::NamedRequest,
};

/// What a device's requests pass on their way to a disk. The drive stays; what is in it may be
/// another disk later, or none, where the device has a [`Tray`].
pub struct Backend {
    options: DiskOptions,
    image: ImageOptions,
    medium: RefCell<Medium>,
    tray: RefCell<Option<Rc<dyn Tray>>>,
    /// What is in it was opened by a command of its own, and outlasts its stay here.
    was_added: Cell<bool>,
    throttle: RefCell<Option<Rc<Member>>>,
    /// Path of the device, empty while there is none.
    device: RefCell<String>,
    /// Throttled requests go on at once: the guest comes to rest.
    open: Cell<bool>,
    exec: Rc<Executor>,
    /// Requests that the device has sent and has not been answered.
    under_way: Cell<usize>,
    /// Those whose error has stopped the guest.
    stopped: Held,
    /// The same, and the error was that there is no room: they may be tried again at any time.
    no_room: Held,
    /// Nobody will go on: requests that fail end, and none is held.
    giving_up: Cell<bool>,
    /// Makes the tasks of its requests.
    tasks: Spawner<Work>,
    this: Weak<Self>,
}

/// A request, whose drive and disk it is for, and where its end is reported.
type Work = (Rc<Backend>, Rc<GuestDisk>, Rc<NamedRequest>, Done);

/// What is in a drive.
enum Medium {
    Disk(Rc<GuestDisk>),
    /// Nothing; the drive's id is kept from others all the same.
    None(Option<Name>),
}

/// Requests that have failed and wait for another try.
#[derive(Default)]
struct Held {
    count: Cell<usize>,
    /// The next try says nothing if it fails as the last one did.
    quiet: Cell<bool>,
    go_on: WaitQueue,
}

impl Held {
    /// Waits for the next try.
    async fn wait(&self) {
        self.count.set(self.count.get() + 1);
        self.go_on.wait().await;
    }

    /// Lets all of them go on. They count as held no longer.
    fn release(&self, quiet: bool) {
        self.quiet.set(quiet);
        self.count.set(0);
        self.go_on.wake_all();
    }
}

impl Backend {
    /// For a device whose requests go to `disk`.
    pub fn new(exec: Rc<Executor>, disk: Rc<GuestDisk>) -> Rc<Self> {
        let (options, image) = (disk.options().clone(), disk.image_options().clone());
        Self::with(exec, (options, image), Medium::Disk(disk))
    }

    /// For a drive without a medium, whose id is kept from others by `name`. Media are opened as
    /// `image` says.
    pub fn empty(
        exec: Rc<Executor>,
        options: (DiskOptions, ImageOptions),
        name: Option<Name>,
    ) -> Rc<Self> {
        Self::with(exec, options, Medium::None(name))
    }

    fn with(
        exec: Rc<Executor>,
        (options, image): (DiskOptions, ImageOptions),
        medium: Medium,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            device: RefCell::new(options.device.clone()),
            options,
            image,
            medium: RefCell::new(medium),
            tray: RefCell::default(),
            was_added: Cell::default(),
            throttle: RefCell::default(),
            open: Cell::default(),
            exec,
            under_way: Cell::default(),
            stopped: Held::default(),
            no_room: Held::default(),
            giving_up: Cell::default(),
            tasks: Spawner::new(Queue::Guest, |(backend, disk, request, done)| {
                Self::serve(backend, disk, request, done)
            }),
            this: this.clone(),
        })
    }

    /// What the user chose for the drive, whatever is in it.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// How media are opened.
    pub fn image_options(&self) -> &ImageOptions {
        &self.image
    }

    /// The disk; `None` if the drive has no medium.
    pub fn disk(&self) -> Option<Rc<GuestDisk>> {
        match &*self.medium.borrow() {
            Medium::Disk(disk) => Some(disk.clone()),
            Medium::None(_) => None,
        }
    }

    /// Whether `disk` is in the drive.
    pub fn has(&self, disk: &Rc<GuestDisk>) -> bool {
        matches!(&*self.medium.borrow(), Medium::Disk(own) if Rc::ptr_eq(own, disk))
    }

    /// The drive's tray, where it has one.
    pub fn tray(&self) -> Option<Rc<dyn Tray>> {
        self.tray.borrow().clone()
    }

    /// The drive has a tray.
    pub fn set_tray(&self, tray: Rc<dyn Tray>) {
        *self.tray.borrow_mut() = Some(tray);
    }

    /// Whether what is in the drive was opened by a command of its own, from now on; and up to now.
    pub fn set_was_added(&self, was_added: bool) -> bool {
        self.was_added.replace(was_added)
    }

    /// Takes the medium out of the drive, which keeps its id. Requests that the disk has accepted
    /// go on there; those that wait for their turn or for another try fail.
    pub fn take_medium(&self) -> Option<Rc<GuestDisk>> {
        let disk = self.disk()?;
        self.medium.replace(Medium::None(disk.take_name()));
        self.retry();
        self.tell_size(0);
        Some(disk)
    }

    /// Puts `disk` into the drive, which is empty. The disk has the drive's id from now on.
    pub fn insert(&self, disk: Rc<GuestDisk>) {
        let (size, new) = (disk.info().size, Medium::Disk(disk.clone()));
        match self.medium.replace(new) {
            Medium::None(name) => disk.set_name(name),
            Medium::Disk(_) => unreachable!("a medium is taken out before another comes"),
        }
        self.tell_size(size);
    }

    fn tell_size(&self, size: u64) {
        if let Some(tray) = self.tray() {
            tray.medium_changed(size);
        }
    }

    /// The path of the device whose drive the disk is, as QEMU names it; empty if there is none.
    pub fn device(&self) -> String {
        self.device.borrow().clone()
    }

    /// Another device has the disk as its drive, or none.
    pub fn set_device(&self, path: &str) {
        path.clone_into(&mut self.device.borrow_mut());
    }

    /// Requests that the device has sent and has not been answered.
    pub fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// Those of them that have failed and wait for another try.
    pub fn held(&self) -> usize {
        self.stopped.count.get() + self.no_room.count.get()
    }

    /// Whether some of those wait for room alone.
    pub fn waits_for_room(&self) -> bool {
        self.no_room.count.get() > 0
    }

    /// Tries again what has failed and waits: the guest goes on.
    pub fn retry(&self) {
        self.stopped.release(false);
        self.no_room.release(false);
    }

    /// Tries again what waits for room: perhaps there is some now.
    pub fn retry_for_room(&self) {
        self.no_room.release(true);
    }

    /// Whether requests that fail are held as the policy wants. If not, those that are held end
    /// with their errors.
    pub fn hold_failures(&self, hold: bool) {
        self.giving_up.set(!hold);
        if !hold {
            self.retry();
        }
    }

    /// The group whose limits the device's requests keep to.
    pub fn throttle_group(&self) -> Option<Rc<ThrottleGroup>> {
        let member = self.throttle.borrow();
        member.as_ref().map(|member| member.group().clone())
    }

    /// From now on the device's requests keep to the limits of `group`, or to none. Those that
    /// wait have to wait there, or go on.
    pub fn set_throttle_group(&self, group: Option<&Rc<ThrottleGroup>>) {
        let member = group.map(ThrottleGroup::join);
        if let Some(member) = &member {
            member.set_open(self.open.get());
        }
        if let Some(former) = self.throttle.replace(member) {
            former.leave();
        }
    }

    /// Whether throttled requests go on at once, though they still count: what waits for the guest
    /// to come to rest does not wait for them.
    pub fn let_through(&self, open: bool) {
        self.open.set(open);
        if let Some(member) = &*self.throttle.borrow() {
            member.set_open(open);
        }
    }

    /// Waits until the limits let a request through.
    async fn throttle(&self, request: &Request) {
        let way = match request.op {
            Op::Read => Way::Read,
            Op::Write { .. } | Op::WriteZeroes { .. } => Way::Write,
            // They are no transfers, and QEMU does not count them either.
            Op::Flush | Op::Discard => return,
        };
        loop {
            let member = self.throttle.borrow().clone();
            let Some(member) = member else {
                return;
            };
            if member.pass(way, request.len).await {
                return;
            }
        }
    }

    /// Carries out a request for `disk` and answers it.
    async fn serve(this: Rc<Self>, disk: Rc<GuestDisk>, request: Rc<NamedRequest>, done: Done) {
        let result = this.carry_out(&disk, &request.request).await;
        disk.account(&request, &result);
        // The device may send another one at once.
        this.under_way.set(this.under_way.get() - 1);
        done(result);
    }

    /// Carries out a request for `disk`, again and again where it is held. What to answer.
    async fn carry_out(&self, disk: &Rc<GuestDisk>, request: &Request) -> Completion {
        self.throttle(request).await;
        let mut quiet = false;
        loop {
            if !self.has(disk) {
                return Err(IoError::OutOfRange);
            }
            let Err(failed) = disk.carry_out(request).await else {
                return Ok(());
            };
            let action = match &failed.node_name {
                Some(_) if !self.giving_up.get() && self.has(disk) => {
                    self.options.errors.action(request.op, &failed.error)
                }
                // No retry makes a request right that the disk cannot take.
                _ => ErrorAction::Report,
            };
            if !(quiet && action == ErrorAction::Stop) {
                disk.report(request.op, &failed, action);
            }
            match action {
                ErrorAction::Report => return Err(failed.error),
                ErrorAction::Ignore => return Ok(()),
                ErrorAction::Stop => {}
            }
            let held = if self
                .options
                .errors
                .waits_for_room(request.op, &failed.error)
            {
                &self.no_room
            } else {
                &self.stopped
            };
            held.wait().await;
            if self.giving_up.get() {
                return Err(failed.error);
            }
            quiet = held.quiet.get();
        }
    }
}

impl Submit for Backend {
    fn submit(&self, request: Request, done: Done) {
        let Some(this) = self.this.upgrade() else {
            return done(Err(IoError::Cancelled));
        };
        let Some(disk) = self.disk() else {
            return done(Err(IoError::OutOfRange));
        };
        self.under_way.set(self.under_way.get() + 1);
        let request = NamedRequest::new(self.info(), request);
        let name = request.clone();
        self.tasks
            .spawn(&self.exec, name, (this, disk, request, done));
    }

    fn info(&self) -> Rc<DiskInfo> {
        match self.disk() {
            Some(disk) => disk.info(),
            None => Rc::new(self.options.describe(None)),
        }
    }

    fn extents(&self, offset: u64, len: u64, max: usize, done: ExtentsDone) {
        match self.disk() {
            Some(disk) => disk.extents(offset, len, max, done),
            None => done(Err(IoError::OutOfRange)),
        }
    }
}
