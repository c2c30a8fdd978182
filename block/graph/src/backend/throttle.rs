//! Throttling: how much disks may do in a second, one alone or several together.
//!
//! Disks that share limits are members of a group. Requests of a member go in order of arrival,
//! reads and writes apart, and members take turns.

mod bucket;
mod limits;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
    task::{Poll, Waker},
    time::Instant,
};

use strata_exec::{Executor, Queue, sync::WaitQueue};

use self::bucket::Buckets;
pub use self::{
    bucket::Way,
    limits::{Limit, Limits, ThrottleLimits, Throttling},
};

/// Disks that share limits.
pub struct ThrottleGroup {
    name: String,
    buckets: RefCell<Buckets>,
    members: RefCell<Vec<Weak<Member>>>,
    /// Whose turn it is, reads and writes apart.
    turns: [Cell<usize>; 2],
    /// Whether a task waits for the time of the next request.
    timed: [Cell<bool>; 2],
    changed: WaitQueue,
    exec: Rc<Executor>,
    this: Weak<Self>,
}

/// A disk's place in a group.
pub struct Member {
    group: Rc<ThrottleGroup>,
    waiting: [RefCell<VecDeque<Rc<Wish>>>; 2],
    /// Nothing waits: the guest comes to rest.
    open: Cell<bool>,
}

/// A request that waits.
struct Wish {
    bytes: u64,
    /// Whether it may go on, and if so whether it has been counted.
    granted: Cell<Option<bool>>,
    waker: RefCell<Option<Waker>>,
}

impl Wish {
    fn grant(&self, counted: bool) {
        self.granted.set(Some(counted));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl ThrottleGroup {
    /// A group without members.
    pub fn new(exec: Rc<Executor>, name: String) -> Rc<Self> {
        let now = Instant::now();
        Rc::new_cyclic(|this| Self {
            name,
            buckets: RefCell::new(Buckets::new(ThrottleLimits::default(), now)),
            members: RefCell::default(),
            turns: Default::default(),
            timed: Default::default(),
            changed: WaitQueue::default(),
            exec,
            this: this.clone(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its members may do.
    pub fn limits(&self) -> ThrottleLimits {
        self.buckets.borrow().limits()
    }

    /// Sets what its members may do. What they have done so far is forgotten.
    pub fn set_limits(&self, limits: ThrottleLimits) {
        let now = Instant::now();
        self.buckets.replace(Buckets::new(limits, now));
        self.changed.wake_all();
        for way in Way::BOTH {
            self.go_on(way);
        }
    }

    /// A new member, last in the order of turns.
    pub fn join(self: &Rc<Self>) -> Rc<Member> {
        let member = Rc::new(Member {
            group: self.clone(),
            waiting: Default::default(),
            open: Cell::default(),
        });
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.strong_count() > 0);
        members.push(Rc::downgrade(&member));
        drop(members);
        member
    }

    /// Lets requests go on whose time has come, and waits for the next one's.
    fn go_on(&self, way: Way) {
        let next = self.release(way, Instant::now());
        let Some(due) = next.filter(|_| !self.timed[way as usize].replace(true)) else {
            return;
        };
        let Some(this) = self.this.upgrade() else {
            return;
        };
        self.exec.spawn_named(Queue::Guest, "throttle", async move {
            this.exec.sleep_or(due, this.changed.wait()).await;
            this.timed[way as usize].set(false);
            this.go_on(way);
        });
    }

    /// Lets the requests go on whose time has come. When the next one's comes, if one waits.
    fn release(&self, way: Way, now: Instant) -> Option<Instant> {
        while let Some(wish) = self.next(way) {
            let wait = self.buckets.borrow_mut().wait(way, now);
            if !wait.is_zero() {
                return Some(now + wait);
            }
            self.buckets.borrow_mut().pour(way, wish.bytes);
            self.take(way);
            wish.grant(true);
        }
        None
    }

    /// The member whose turn it is, and its place.
    fn turn(&self, way: Way) -> Option<(usize, Rc<Member>)> {
        let members = self.members.borrow();
        let turn = self.turns[way as usize].get();
        (0..members.len())
            .map(|n| (turn + n) % members.len())
            .find_map(|place| {
                let member = members[place].upgrade()?;
                let waits = !member.waiting[way as usize].borrow().is_empty();
                waits.then_some((place, member))
            })
    }

    /// The request whose turn it is.
    fn next(&self, way: Way) -> Option<Rc<Wish>> {
        let (_, member) = self.turn(way)?;
        member.waiting[way as usize].borrow().front().cloned()
    }

    /// Takes it out; the next member's turn has come.
    fn take(&self, way: Way) {
        if let Some((place, member)) = self.turn(way) {
            member.waiting[way as usize].borrow_mut().pop_front();
            self.turns[way as usize].set(place + 1);
        }
    }
}

impl Member {
    /// The group.
    pub fn group(&self) -> &Rc<ThrottleGroup> {
        &self.group
    }

    /// Waits until a request of `bytes` bytes may go on. Whether it has been counted: if not, the
    /// disk has left the group.
    pub async fn pass(&self, way: Way, bytes: u64) -> bool {
        if self.open.get() {
            self.group.buckets.borrow_mut().pour(way, bytes);
            return true;
        }
        let wish = self.wish(way, bytes);
        self.group.go_on(way);
        std::future::poll_fn(|cx| match wish.granted.get() {
            Some(counted) => Poll::Ready(counted),
            None => {
                *wish.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn wish(&self, way: Way, bytes: u64) -> Rc<Wish> {
        let wish = Rc::new(Wish {
            bytes,
            granted: Cell::default(),
            waker: RefCell::default(),
        });
        self.waiting[way as usize]
            .borrow_mut()
            .push_back(wish.clone());
        wish
    }

    /// Whether requests go on at once, though they still count. Those that wait do so now.
    pub fn set_open(&self, open: bool) {
        self.open.set(open);
        if !open {
            return;
        }
        for way in Way::BOTH {
            for wish in self.waiting[way as usize].take() {
                self.group.buckets.borrow_mut().pour(way, wish.bytes);
                wish.grant(true);
            }
        }
    }

    /// The disk leaves the group: what waits has to wait elsewhere, or goes on.
    pub fn leave(&self) {
        for waiting in &self.waiting {
            for wish in waiting.take() {
                wish.grant(false);
            }
        }
    }
}

#[cfg(test)]
mod tests;
