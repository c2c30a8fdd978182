//! Keeps the machine running: the device thread's loop, and what it does when told to stop, go
//! on, reset or end.

mod ending;

use std::{
    cell::{Cell, RefCell},
    os::fd::RawFd,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber};
use strata_block::{
    api::{Cmd, CmdError, Reply},
    engine::Engine,
    exec::Turn,
};

pub use self::ending::Rules;
use self::ending::{End, Panics};
use super::{
    Ended, Firmware, RunError,
    board::Board,
    console::{Hurry, Transcript},
    disks::{Meter, Worker},
    handle::State,
    outcome::{Outcome, ResetCause},
    post::{GuestEvent, Inbox, Message},
    vcpus::Vcpus,
};
use crate::{
    boot::BootSource,
    kvm::{raw::Vm, reset::ChipState},
    monitor::{Action, Answer, Notice, Notifier, RunState},
};

/// What a machine consists of. Fields are dropped in order: vCPUs end before anything they use.
pub struct Parts {
    /// The vCPUs, parked.
    pub vcpus: Vcpus,
    /// The event loop, with all its subscribers.
    pub events: EventManager<Box<dyn MutEventSubscriber>>,
    /// The block layer.
    pub engine: Rc<Engine>,
    /// The disks' devices.
    pub workers: Vec<Worker>,
    /// What is asked of the disks.
    pub meters: Vec<Rc<Meter>>,
    /// The other devices.
    pub board: Board,
    /// The controllers in the kernel as they were at first.
    pub chips: ChipState,
    /// The virtual machine.
    pub vm: Arc<Vm>,
    /// What is booted.
    pub boot: BootSource,
    /// What goes with it.
    pub firmware: Firmware,
    /// Messages.
    pub inbox: Inbox,
    /// Whether the serial port may wait.
    pub hurry: Hurry,
    /// What the monitor is told that the machine is doing.
    pub state: State,
    /// Where news go.
    pub notifier: Notifier,
    /// What the guest prints.
    pub transcript: Transcript,
    /// What ends the run.
    pub rules: Rules,
}

/// The device thread.
pub struct Control {
    parts: Parts,
    /// What the block layer left behind when it was last polled.
    turn: Turn,
    panics: Panics,
    /// The time is over, and the disks have been told not to wait for servers that have gone.
    timed_out: bool,
    /// When vCPUs ran first.
    started: Option<Instant>,
}

impl Control {
    /// A machine that has not been started.
    pub fn new(parts: Parts) -> Self {
        let turn = Turn {
            more_work_now: true,
            next_deadline: None,
        };
        Self {
            parts,
            turn,
            panics: Panics::default(),
            timed_out: false,
            started: None,
        }
    }

    /// Runs it until its end, waiting for `cont` first if `paused`.
    ///
    /// # Errors
    /// The guest could not go on, or a disk could not be closed.
    pub fn run(mut self, paused: bool) -> Result<Ended, RunError> {
        if !paused {
            self.resume();
        }
        loop {
            while let Some(message) = self.parts.inbox.next() {
                if let Some(end) = self.handle(message)? {
                    return self.end(end);
                }
                // A command may have started something in the block layer.
                self.turn.more_work_now = true;
            }
            if let Some(end) = self.look_at_the_clock()? {
                return self.end(end);
            }
            self.turn()?;
        }
    }

    /// Waits for events, lets their subscribers act, and gives the block layer its turn.
    fn turn(&mut self) -> Result<(), RunError> {
        let alarm = self.next_alarm();
        let timeout = timeout(&self.turn, alarm);
        match self.parts.events.run_with_timeout(timeout) {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(RunError::Events(error)),
        }
        self.turn = self.parts.engine.poll();
        self.note_time_out();
        Ok(())
    }

    fn handle(&mut self, message: Message) -> Result<Option<End>, RunError> {
        match message {
            Message::Action(action, answer) => self.act(action, answer),
            Message::Guest(event) => self.on_guest(event),
            Message::Leave => Ok(Some(Outcome::Quit.into())),
            Message::Signal => Ok(Some(Outcome::Signal.into())),
        }
    }

    fn on_guest(&mut self, event: GuestEvent) -> Result<Option<End>, RunError> {
        match event {
            GuestEvent::Reset => return self.on_reset(ResetCause::Guest),
            GuestEvent::TripleFault => return self.on_reset(ResetCause::TripleFault),
            GuestEvent::PowerOff => return Ok(Some(self.unless_panicked(Outcome::PoweredOff))),
            GuestEvent::CommandEnded(status) => return Ok(Some(Outcome::Command(status).into())),
            GuestEvent::ResultsLost(why) => {
                let why = format!("the command's results could not be written: {why}");
                return Ok(Some(End::failed(why)));
            }
            GuestEvent::Exited(code) => return Ok(Some(Outcome::Exited(code).into())),
            GuestEvent::Panicked | GuestEvent::PanicEnded => return self.on_panic(),
            GuestEvent::PanicPrinted(why) => self.panics.printed(why),
            GuestEvent::CrashLoaded => self.parts.notifier.notify(Notice::GuestCrashLoaded),
            GuestEvent::Broken(why) => return Ok(Some(End::failed(why))),
        }
        Ok(None)
    }

    /// Does what a monitor asks.
    fn act(&mut self, action: Action, answer: Answer) -> Result<Option<End>, RunError> {
        match action {
            Action::Block(command) => {
                self.execute(command, answer);
                return Ok(None);
            }
            Action::Stop => self.stop(RunState::Paused)?,
            Action::Cont => {
                self.parts.engine.reset_io_status();
                self.resume();
            }
            Action::SystemReset => {
                if let Some(end) = self.on_reset(ResetCause::Monitor)? {
                    return Ok(Some(end.answering(answer)));
                }
            }
            Action::SystemPowerdown => {
                self.parts.board.press_power_button();
                self.parts.notifier.notify(Notice::Powerdown);
            }
            Action::Quit => return Ok(Some(End::from(Outcome::Quit).answering(answer))),
        }
        answer.send(Ok(Reply::Done));
        Ok(None)
    }

    /// Has the block layer carry out a command.
    fn execute(&mut self, command: Cmd, answer: Answer) {
        let resizes = matches!(command, Cmd::BlockResize(_));
        let workers = resizes.then(|| self.parts.workers.clone());
        let reply = move |result: Result<Reply, CmdError>| {
            workers.iter().flatten().for_each(Worker::resized);
            answer.send(result);
        };
        self.parts.engine.execute(command, Box::new(reply));
        self.turn.more_work_now = true;
    }

    /// Lets the vCPUs and the disks' devices run.
    fn resume(&mut self) {
        let parts = &self.parts;
        if parts.state.get() == RunState::Running {
            return;
        }
        parts.hurry.set(false);
        for worker in &parts.workers {
            worker.cont();
        }
        parts.state.set(RunState::Running);
        parts.notifier.notify(Notice::Resume);
        parts.vcpus.resume();
        self.started.get_or_insert_with(Instant::now);
    }

    /// Stops them, and makes durable what the guest has written.
    fn stop(&mut self, state: RunState) -> Result<(), RunError> {
        if self.parts.state.get() == RunState::Running {
            self.settle()?;
            self.parts.state.set(state);
            self.parts.notifier.notify(Notice::Stop);
        }
        Ok(())
    }

    /// Parks the vCPUs, and returns once no request of the guest is under way and everything is
    /// durable. Jobs go on. A disk that cannot be flushed is reported, and keeps its error for the
    /// guest.
    fn settle(&mut self) -> Result<(), RunError> {
        self.parts.hurry.set(true);
        self.parts.vcpus.park();
        for worker in &self.parts.workers {
            worker.stop();
        }
        self.drain()?;
        let done = Rc::new(Cell::new(false));
        let finished = Rc::clone(&done);
        self.parts.engine.quiesce(move |errors| {
            for error in errors {
                tracing::error!(%error, "a disk could not be flushed");
            }
            finished.set(true);
        });
        self.wait_for(&done)
    }

    /// Runs the loop until the block layer has done something. Monitors' questions about disks are
    /// answered meanwhile; who wants an end now does not want to wait for servers that have gone.
    fn wait_for(&mut self, done: &Cell<bool>) -> Result<(), RunError> {
        self.turn.more_work_now = true;
        while !done.get() {
            self.turn()?;
            self.answer_meanwhile();
        }
        Ok(())
    }

    /// Takes those messages that need not wait for what is under way. The others stay, in order.
    fn answer_meanwhile(&mut self) {
        let mut later = Vec::new();
        while let Some(message) = self.parts.inbox.next() {
            match message {
                Message::Action(Action::Block(command), answer) => self.execute(command, answer),
                Message::Action(Action::Quit, _) | Message::Signal | Message::Leave => {
                    self.parts.engine.give_up_on_servers();
                    later.push(message);
                }
                message => later.push(message),
            }
        }
        self.parts.inbox.keep(later);
    }

    /// Runs the loop until no worker has a request under way.
    fn drain(&mut self) -> Result<(), RunError> {
        // What has been sent to a worker counts only once it has seen it: one turn at least.
        self.turn.more_work_now = true;
        self.turn()?;
        while !self.parts.workers.iter().all(Worker::is_idle) {
            self.turn()?;
            self.answer_meanwhile();
        }
        Ok(())
    }

    /// Back to the state after power-on, the kernel loaded again. Runs or not as before.
    fn reset(&mut self, guest: bool) -> Result<(), RunError> {
        self.settle()?;
        self.parts.inbox.forget_resets();
        self.parts.board.reset();
        self.parts.transcript.cut();
        self.panics = Panics::default();
        // Workers must have let go of the rings in the old guest's memory before that is written.
        self.drain()?;
        let parts = &mut self.parts;
        parts.chips.restore(&parts.vm.fd)?;
        let entry = parts.firmware.load(&mut parts.boot)?;
        parts.vcpus.reset(entry)?;
        parts.notifier.notify(Notice::Reset { guest });
        if parts.state.get() == RunState::Running {
            parts.hurry.set(false);
            for worker in &parts.workers {
                worker.cont();
            }
            parts.vcpus.resume();
        }
        Ok(())
    }

    /// The orderly end: drain, flush, close.
    fn end(mut self, end: End) -> Result<Ended, RunError> {
        let now = Instant::now();
        self.parts.state.set(RunState::Shutdown);
        self.parts.notifier.notify(Notice::Shutdown(end.cause()));
        if let Some(answer) = end.answer {
            answer.send(Ok(Reply::Done));
        }
        // Before the requests are waited for, which somebody may want to see.
        let disks = self.parts.meters.iter().map(|meter| meter.report(now));
        let disks = disks.collect();
        let first_request = self
            .parts
            .meters
            .iter()
            .filter_map(|meter| meter.first())
            .min();
        self.settle()?;
        let explained = end.outcome.as_ref().is_ok_and(Outcome::needs_explaining);
        let vcpus = if explained {
            self.parts.vcpus.inspect()?
        } else {
            Vec::new()
        };
        let (done, errors) = (Rc::new(Cell::new(false)), Rc::new(RefCell::default()));
        let (finished, found) = (Rc::clone(&done), Rc::clone(&errors));
        self.parts.engine.begin_to_shut_down(move |errors| {
            found.replace(errors);
            finished.set(true);
        });
        self.wait_for(&done)?;
        let errors: Vec<_> = errors.take();
        let outcome = end.outcome.map_err(RunError::Guest)?;
        if !errors.is_empty() {
            return Err(RunError::Closing(errors));
        }
        Ok(Ended {
            outcome,
            started: self.started,
            ended: now,
            first_request,
            vcpus,
            disks,
        })
    }
}

/// Milliseconds to wait for events, until `alarm` at most; -1 for as long as it takes.
fn timeout(turn: &Turn, alarm: Option<Instant>) -> i32 {
    match turn.next_deadline.into_iter().chain(alarm).min() {
        _ if turn.more_work_now => 0,
        None => -1,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a millisecond too early would be a turn for nothing.
            i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
        }
    }
}

/// Ends the wait for events when a file becomes readable. The loop reads it after each turn.
pub struct Watch {
    file: RawFd,
}

impl Watch {
    /// For a file that stays open as long as the loop.
    pub fn file(file: RawFd) -> Self {
        Self { file }
    }
}

impl MutEventSubscriber for Watch {
    fn process(&mut self, _: Events, _: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new_raw(self.file, EventSet::IN)) {
            tracing::error!(?error, "an event source is not watched");
        }
    }
}

#[cfg(test)]
mod tests;
