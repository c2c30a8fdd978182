//! Guests and an operator at work, on files that may fail or have no more room.

use std::{cell::Cell, rc::Rc};

use strata_block::api::JobStatus;
use strata_exec::{Queue, mem::SgList};
use strata_graph::Node;
use strata_storage::{Faults, SimFile, error::IoError};

use super::World;
use crate::{
    guest::{Allowed, Guest, Load, Watch},
    model::SECTOR,
    operator::DISK,
    oracle::{self, Chain},
};

/// Requests that guests send in one run.
const REQUESTS: u64 = 40;

impl World {
    /// Lets guests work, and an operator too, and stops at a random moment: often at one that
    /// matters, when a file begins to be flushed, or shortly after a flush, a snapshot or the end
    /// of a merge has begun.
    pub fn run(&mut self, operator: bool) {
        self.renew_bitmaps();
        self.start();
        self.only_guests = !operator;
        self.spawn_work(operator);
        self.run_for_a_while();
    }

    fn spawn_work(&mut self, operator: bool) {
        self.spawn_guests(REQUESTS);
        if operator {
            let operator = self.running().operator.clone();
            let work = async move { operator.work().await };
            self.running().exec.spawn(Queue::Guest, work);
        }
    }

    fn run_for_a_while(&mut self) {
        let mut polls = self.random.below(3000);
        let (mut mark, mut flush) = (u64::MAX, u64::MAX);
        match self.random.below(3) {
            0 => {}
            1 => mark = 1 + self.random.below(8),
            _ => flush = 1 + self.random.below(60),
        }
        let after = self.random.below(90);
        if mark.min(flush) < u64::MAX {
            polls = 20_000;
        }
        let mut flushes = 0;
        while polls > 0 {
            polls -= 1;
            let running = self.running.as_ref().unwrap();
            if running.marks.get() >= mark {
                mark = u64::MAX;
                polls = after;
            }
            let job = self.random.one_in(4);
            if !running
                .exec
                .step(if job { Queue::Job } else { Queue::Guest })
            {
                break;
            }
            let now = running.directory.flushes();
            if now >= flush {
                break;
            }
            if std::mem::replace(&mut flushes, now) != now && self.random.one_in(4) {
                self.look_at_a_crash();
            }
        }
    }

    /// Checks what a crash would leave now, without one. When a flush begins, a rule that asked for
    /// one before is broken if it ever is.
    fn look_at_a_crash(&mut self) {
        let running = self.running.as_ref().unwrap();
        let root = running.engine.find_disk(DISK).unwrap().root();
        let top = Chain(vec![(root.path().to_owned(), root.format())]);
        let files = running.directory.after_crash(self.random.next());
        // The name of a new layer may not be durable.
        if files.contains_key(root.path()) {
            oracle::check(&files, &top);
            if self.only_guests {
                oracle::check_mark(&self.files, &files, top.top());
            }
        }
    }

    /// Lets guests work while the top is committed, and stops in one of the states that the job
    /// goes through, or after it.
    pub fn run_commit_of_top(&mut self) {
        self.renew_bitmaps();
        self.start();
        self.spawn_guests(2 * REQUESTS);
        let operator = self.running().operator.clone();
        let done = Rc::new(Cell::new(false));
        let over = done.clone();
        let work = async move {
            operator.commit_top().await;
            over.set(true);
        };
        self.running().exec.spawn(Queue::Guest, work);
        let states = [
            JobStatus::Running,
            JobStatus::Ready,
            JobStatus::Pending,
            JobStatus::Concluded,
        ];
        let state = self.random.pick(&states);
        let mut polls = 20_000;
        let mut after = Some(self.random.below(150));
        while polls > 0 {
            polls -= 1;
            let job = self.random.one_in(2);
            let running = self.running();
            let queue = if job { Queue::Job } else { Queue::Guest };
            if !running.exec.step(queue) {
                break;
            }
            let reached = match state {
                JobStatus::Concluded => done.get(),
                state => running.last_status.get() == Some(state),
            };
            if reached && let Some(after) = after.take() {
                polls = after;
            }
        }
    }

    /// Lets all come to an end, a merge too, then merges once more.
    pub fn run_to_the_end(&mut self) {
        self.renew_bitmaps();
        self.start();
        self.spawn_work(true);
        self.run_for_a_while();
        self.settle();
        self.spawn_guests(10);
        let operator = self.running().operator.clone();
        self.running().exec.block_on(async move {
            operator.commit().await;
            operator.let_finish().await;
            operator.stream().await;
            operator.let_finish().await;
        });
        self.settle();
    }

    pub(super) fn settle(&self) {
        let running = self.running();
        running.operator.stop.set(true);
        let operator = running.operator.clone();
        running
            .exec
            .block_on(async move { operator.let_finish().await });
        while running.exec.task_count() > 0 {
            running.exec.poll();
        }
    }

    /// Lets files fail for a while. Then an image that has stopped writes nothing more but can be
    /// read, one that has lost something is never flushed again, and any other goes on as if
    /// nothing had been.
    pub fn run_with_faults(&mut self) {
        self.renew_bitmaps();
        self.start();
        self.running().allowed.set(Allowed::Anything);
        let faults = self.random.faults();
        self.spawn_work(true);
        // Or one flush finds no room, and all else goes well: so that nothing but that flush is in
        // the way of what goes on as if nothing had been.
        let one = self.random.one_in(3);
        for file in self.running().directory.files() {
            if one {
                file.fill_up_at_flush(Some(self.random.below(25)));
            } else {
                file.set_faults(faults);
            }
        }
        self.run_for_a_while();
        for file in self.running().directory.files() {
            file.set_faults(Faults::default());
            file.fill_up_at_flush(None);
        }
        if self.random.one_in(2) {
            return;
        }
        self.settle();
        self.verify();
        if self.root().image().is_stopped() {
            self.check_stopped();
        } else if self.has_losses() {
            self.check_lost();
        } else {
            self.running().allowed.set(Allowed::Nothing);
            self.spawn_guests(10);
            self.settle();
        }
        self.verify();
    }

    fn check_stopped(&mut self) {
        let root = self.root();
        let file = self.running().directory.file(root.path()).unwrap();
        self.running().exec.block_on(check_refuses(root, file));
    }

    /// Whether something of the top could not be brought to disk.
    fn has_losses(&self) -> bool {
        let (root, directory) = (self.root(), &self.running().directory);
        [root.image().storage(), root.image().data_storage()]
            .into_iter()
            .any(|storage| directory.file(storage.path()).unwrap().losses() > 0)
    }

    /// Nobody's flush succeeds any more.
    fn check_lost(&mut self) {
        let root = self.root();
        for _ in 0..2 {
            let top = root.clone();
            let result = self
                .running()
                .exec
                .block_on(async move { top.flush().await });
            let refused = matches!(result, Err(IoError::Lost { .. } | IoError::Stopped { .. }));
            assert!(refused, "{result:?}");
        }
    }

    /// Lets the top's file system, or everyone's, be full for a while: requests fail, for want of
    /// space and no other reason. Once there is room everything works again.
    pub fn run_on_a_full_disk(&mut self) {
        self.renew_bitmaps();
        self.short_of_room = true;
        self.start();
        self.running().allowed.set(Allowed::NoSpace);
        let all = self.random.one_in(2);
        let root = self.root();
        for layer in root.chain().take(if all { usize::MAX } else { 1 }) {
            for storage in [layer.image().storage(), layer.image().data_storage()] {
                let file = self.running().directory.file(storage.path()).unwrap();
                file.set_room(Some(self.random.below(48)));
            }
        }
        self.spawn_work(true);
        self.run_for_a_while();
        if self.random.one_in(2) {
            return;
        }
        for file in self.running().directory.files() {
            file.set_room(None);
        }
        self.settle();
        self.running().allowed.set(Allowed::Nothing);
        self.short_of_room = false;
        self.spawn_guests(10);
        self.settle();
        self.verify();
        self.stop();
        self.start();
    }

    pub(super) fn spawn_guests(&mut self, requests: u64) {
        let running = self.running.as_ref().unwrap();
        let load = Rc::new(Load {
            disk: running.disk.clone(),
            watch: Watch::Nobody,
            model: self.model.clone(),
            allowed: running.allowed.clone(),
            marks: running.marks.clone(),
            spots: self.spots.clone(),
            longest: self.longest,
            left: Cell::new(requests),
        });
        for _ in 0..1 + self.random.below(6) {
            let guest = Guest {
                load: load.clone(),
                random: Cell::new(self.random.next()),
            };
            Rc::new(guest).next();
        }
    }
}

/// Rule W6: requests that write are refused, and nothing reaches the file.
pub(super) async fn check_refuses(node: Rc<Node>, file: Rc<SimFile>) {
    let before = file.changes();
    let data = SgList::zeroed(SECTOR as usize);
    for result in [
        node.write(0, data).await,
        node.write_zeroes(0, SECTOR, true).await,
        node.flush().await,
    ] {
        let stopped = matches!(result, Err(IoError::Stopped { .. }));
        assert!(stopped, "{result:?}");
    }
    assert_eq!(file.changes(), before, "something was written");
}
