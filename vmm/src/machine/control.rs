//! Keeps the machine running: the device thread's loop, and what it does when it is to stop, go
//! on, reset or end.
//!
//! There is one loop. What has to wait for the disks is a step on a [`Course`]; the loop goes round
//! until the step is done, answers meanwhile what need not wait, and takes the next step.

mod course;
mod dump;
mod ending;
mod held;
mod plug;
mod sleep;
mod watch;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use event_manager::{EventManager, MutEventSubscriber};
use strata_block::{
    api::{Cmd, CmdError, Reply},
    engine::Engine,
};
use strata_exec::Turn;

use self::{
    course::{Admission, Course, Goal, Progress, Step},
    dump::Dump,
    ending::{End, Panics},
    plug::Plugged,
};
pub use self::{ending::Rules, watch::Watch};
use super::{
    Ended, RunError,
    board::Board,
    console::{Hurry, Transcript},
    disks::{DiskReport, Meter, Plug, Worker},
    handle::State,
    outcome::{Outcome, ResetCause},
    post::{GuestEvent, Inbox, Message},
    start::Start,
    vcpus::{VcpuReport, Vcpus},
};
use crate::{
    cli::report::CoreOption,
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
    /// What puts more disks' devices into the machine.
    pub plug: Plug,
    /// The controllers in the kernel as they were at first.
    pub chips: ChipState,
    /// The virtual machine.
    pub vm: Arc<Vm>,
    /// What is booted.
    pub start: Start,
    /// Messages.
    pub inbox: Inbox,
    /// Whether the serial port may wait.
    pub hurry: Hurry,
    /// What the monitor says that the machine is doing.
    pub state: State,
    /// Where news go.
    pub notifier: Notifier,
    /// What the guest prints.
    pub transcript: Transcript,
    /// The core that is wanted of a guest that failed.
    pub core: Option<CoreOption>,
    /// What ends the run.
    pub rules: Rules,
}

/// The device thread.
pub struct Control {
    parts: Parts,
    /// What the block layer left behind when it was last polled.
    turn: Turn,
    panics: Panics,
    /// The time is over, and the disks do not wait any more for servers that have gone.
    timed_out: bool,
    /// When vCPUs ran first.
    started: Option<Instant>,
    course: Course,
    underway: Underway,
    /// The guest has suspended to memory, and has not been woken.
    asleep: bool,
    /// For the client that has asked for what the course leads to.
    asked: Option<Answer>,
    /// The core that the course leads to, and what became of it.
    dump: Dump,
    /// What is known of the end that the course leads to.
    ending: Option<Ending>,
    /// When requests that wait for room are tried again.
    retry: Option<Instant>,
    /// Devices that have come since the machine was put together.
    plugged: Vec<Plugged>,
}

/// What is known of the step that is under way.
#[derive(Default)]
struct Underway {
    /// The loop has gone round since it began.
    turned: bool,
    /// The block layer has done what it was asked for.
    done: Rc<Cell<bool>>,
}

/// An end that is under way.
struct Ending {
    outcome: Result<Outcome, String>,
    since: Instant,
    first_request: Option<Instant>,
    disks: Vec<DiskReport>,
    vcpus: Vec<VcpuReport>,
    /// What went wrong when the disks were closed.
    errors: Rc<RefCell<Vec<strata_storage::error::Error>>>,
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
            course: Course::default(),
            underway: Underway::default(),
            asleep: false,
            asked: None,
            dump: Dump::default(),
            ending: None,
            retry: None,
            plugged: Vec::new(),
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
            self.take_messages()?;
            self.turn()?;
            if let Some(ended) = self.proceed()? {
                return Ok(ended);
            }
            self.go_on_if_there_is_room();
            self.let_go();
        }
    }

    /// Attends to what has come, as far as the course lets it.
    fn take_messages(&mut self) -> Result<(), RunError> {
        while self.course.is_steady() {
            let Some(message) = self.parts.inbox.next() else {
                let end = self.look_at_the_clock()?;
                return end.map_or(Ok(()), |end| self.end(end));
            };
            if let Some(end) = self.handle(message)? {
                self.end(end)?;
            }
            // A command may have started something in the block layer.
            self.turn.more_work_now = true;
        }
        self.answer_meanwhile();
        Ok(())
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
        self.underway.turned = true;
        self.note_time_out();
        Ok(())
    }

    fn handle(&mut self, message: Message) -> Result<Option<End>, RunError> {
        match message {
            Message::Action(action, answer) => self.act(action, answer),
            Message::Guest(event) => self.on_guest(event),
            Message::Leave => Ok(Some(Outcome::Left.into())),
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
            GuestEvent::Suspended => self.on_suspended()?,
            GuestEvent::WokenUp => self.on_woken_up()?,
            GuestEvent::Exited(code) => return Ok(Some(Outcome::Exited(code).into())),
            GuestEvent::Panicked | GuestEvent::PanicEnded => return self.on_panic(),
            GuestEvent::PanicPrinted(why) => self.panics.printed(why),
            GuestEvent::Ejected => self.on_ejected(),
            GuestEvent::RequestHeld => self.on_held_request()?,
            GuestEvent::CrashLoaded => self.parts.notifier.notify(Notice::GuestCrashLoaded),
            GuestEvent::Broken(why) => return Ok(Some(End::failed(why))),
        }
        Ok(None)
    }

    /// Does what a monitor asks.
    fn act(&mut self, action: Action, answer: Answer) -> Result<Option<End>, RunError> {
        match action {
            Action::Block(command) => {
                self.execute(*command, answer);
                return Ok(None);
            }
            Action::Stop => {
                self.wait_for_no_room();
                self.stop(RunState::Paused)?;
            }
            Action::Cont if self.asleep => self.cont_asleep()?,
            Action::Cont => self.cont(),
            Action::SystemReset => {
                if let Some(end) = self.on_reset(ResetCause::Monitor)? {
                    return Ok(Some(end.answering(answer)));
                }
            }
            Action::Dump(option) => self.dump(option)?,
            Action::SystemPowerdown => {
                self.parts.board.press_power_button();
                self.parts.notifier.notify(Notice::Powerdown);
            }
            Action::SystemWakeup => {
                if let Err(refused) = self.wake_up_as_asked()? {
                    answer.send(Err(refused));
                    return Ok(None);
                }
            }
            Action::DriveAdd(option) => {
                self.add_drive(&option, answer);
                return Ok(None);
            }
            Action::DriveDel(id) => {
                self.delete_drive(id, answer);
                return Ok(None);
            }
            Action::DeviceAdd(device) => {
                answer.send(self.add_device(&device).map(|()| Reply::Done));
                return Ok(None);
            }
            Action::DeviceDel(id) => {
                answer.send(self.delete_device(&id).map(|()| Reply::Done));
                return Ok(None);
            }
            Action::Quit => return Ok(Some(End::from(Outcome::Quit).answering(answer))),
        }
        if self.course.is_steady() {
            answer.send(Ok(Reply::Done));
        } else {
            self.asked = Some(answer);
        }
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

    /// Has the guest go on; what its disks have failed to do is tried again.
    fn cont(&mut self) {
        self.parts.engine.reset_io_status();
        self.resume();
        self.parts.engine.retry();
    }

    /// Lets the vCPUs and the disks' devices run.
    fn resume(&mut self) {
        let parts = &self.parts;
        if parts.state.get() == RunState::Running {
            return;
        }
        parts.state.set(RunState::Running);
        parts.notifier.notify(Notice::Resume);
        self.go_on();
        self.started.get_or_insert_with(Instant::now);
    }

    /// Stops them, and makes durable what the guest has written.
    fn stop(&mut self, state: RunState) -> Result<(), RunError> {
        if self.parts.state.get() == RunState::Running {
            self.head_for(Goal::Stop(state))?;
        }
        Ok(())
    }

    /// Sets out for `goal`, after what is under way.
    fn head_for(&mut self, goal: Goal) -> Result<(), RunError> {
        self.course
            .add(goal)
            .map_or(Ok(()), |step| self.begin(step))
    }

    /// Takes the steps that can be taken now. How the machine has ended, once it has.
    fn proceed(&mut self) -> Result<Option<Ended>, RunError> {
        while let Some(step) = self.course.step()
            && self.is_done(step)
        {
            match self.course.step_done() {
                Some(Progress::Next(step)) => self.begin(step)?,
                Some(Progress::Reached(Goal::End)) => return self.ended().map(Some),
                Some(Progress::Reached(goal)) => self.reached(goal)?,
                None => {}
            }
        }
        Ok(None)
    }

    /// Begins a step; [`Control::is_done`] says when it is done. Jobs go on.
    fn begin(&mut self, step: Step) -> Result<(), RunError> {
        self.underway = Underway::default();
        self.turn.more_work_now = true;
        let done = Rc::clone(&self.underway.done);
        match step {
            Step::Drain => {
                self.parts.hurry.set(true);
                self.parts.vcpus.park();
                self.parts.workers.iter().for_each(Worker::stop);
                self.parts.engine.begin_to_rest(self.failed_requests());
            }
            // A disk that cannot be flushed is reported, and keeps its error for the guest.
            Step::Flush => self.parts.engine.quiesce(move |errors| {
                for error in errors {
                    tracing::error!(%error, "a disk could not be flushed");
                }
                done.set(true);
            }),
            Step::ResetDevices if self.course.goal() == Some(Goal::WakeUp) => {
                self.parts.board.wake_up();
            }
            Step::ResetDevices => {
                self.parts.inbox.forget_resets();
                self.parts.board.reset();
                self.parts.transcript.cut();
                self.panics = Panics::default();
            }
            Step::Dump => self.write_core(done)?,
            Step::LookBack => self.look_back(done)?,
            Step::Close => self.close(done),
        }
        Ok(())
    }

    fn is_done(&self, step: Step) -> bool {
        match step {
            // What has been sent to a worker counts only once it has seen it: one turn at least.
            // Workers must have let go of the rings in the old guest's memory before that is
            // written.
            Step::Drain | Step::ResetDevices => {
                self.underway.turned
                    && (self.parts.workers.iter().all(Worker::is_idle)
                        || self.rests_but_for_held_requests())
            }
            Step::Flush | Step::Dump | Step::LookBack | Step::Close => self.underway.done.get(),
        }
    }

    /// The machine is where it was to be, and goes on to where it is to be next.
    fn reached(&mut self, goal: Goal) -> Result<(), RunError> {
        let mut reply = Ok(Reply::Done);
        match goal {
            Goal::Stop(state) => {
                self.parts.state.set(state);
                self.parts.notifier.notify(Notice::Stop);
                self.begin_to_wait_for_room();
            }
            Goal::Reset { guest } => self.boot_again(guest)?,
            Goal::Suspend => self.suspended(),
            Goal::WakeUp => self.wake_up()?,
            Goal::Dump => {
                self.go_on();
                reply = self.dump.reply();
            }
            Goal::End => {}
        }
        if let Some(step) = self.course.step() {
            return self.begin(step);
        }
        if let Some(answer) = self.asked.take() {
            answer.send(reply);
        }
        Ok(())
    }

    /// Takes those messages that need not wait for what is under way. The others stay, in order.
    fn answer_meanwhile(&mut self) {
        let mut later = Vec::new();
        while let Some(message) = self.parts.inbox.next() {
            match (self.course.admit(&message), message) {
                (Admission::Now, Message::Action(Action::Block(command), answer)) => {
                    self.execute(*command, answer);
                }
                (Admission::LaterAndHurry, message) => {
                    self.parts.engine.give_up_on_servers();
                    later.push(message);
                }
                (_, message) => later.push(message),
            }
        }
        self.parts.inbox.keep(later);
    }

    /// Loads what is booted again into a machine that is as after power-on. Runs or not as before.
    fn boot_again(&mut self, guest: bool) -> Result<(), RunError> {
        // What was to go has gone with the reset.
        self.on_ejected();
        let parts = &mut self.parts;
        parts.chips.restore(&parts.vm.fd)?;
        let entry = parts.start.start_again(parts.board.shutdown_status())?;
        parts.vcpus.reset(entry)?;
        self.asleep = false;
        match parts.state.get() {
            // What it waited for is gone; as QEMU calls it then.
            RunState::IoError => parts.state.set(RunState::Prelaunch),
            RunState::Suspended => parts.state.set(RunState::Running),
            _ => {}
        }
        parts.notifier.notify(Notice::Reset { guest });
        self.go_on();
        Ok(())
    }

    /// Lets a machine run that stood still for a moment, if it ran before.
    fn go_on(&self) {
        let parts = &self.parts;
        if parts.state.get() == RunState::Running {
            parts.hurry.set(false);
            parts.engine.end_rest();
            for worker in &parts.workers {
                worker.cont();
            }
            parts.vcpus.resume();
        }
    }

    /// Sets out for the orderly end: drain, flush, close.
    fn end(&mut self, end: End) -> Result<(), RunError> {
        let now = Instant::now();
        self.explain_sleep(&end);
        self.parts.state.set(RunState::Shutdown);
        self.parts.notifier.notify(Notice::Shutdown(end.cause()));
        if let Some(answer) = end.answer {
            answer.send(Ok(Reply::Done));
        }
        let meters = &self.parts.meters;
        self.ending = Some(Ending {
            outcome: end.outcome,
            since: now,
            first_request: meters.iter().filter_map(|meter| meter.first()).min(),
            // Before the requests are waited for, which somebody may want to see.
            disks: meters.iter().map(|meter| meter.report(now)).collect(),
            vcpus: Vec::new(),
            errors: Rc::default(),
        });
        self.head_for(Goal::End)
    }

    /// Has every disk closed.
    fn close(&self, done: Rc<Cell<bool>>) {
        let errors = self.ending.as_ref().map(|ending| &ending.errors);
        let found = errors.cloned().unwrap_or_default();
        self.parts.engine.begin_to_shut_down(move |errors| {
            found.replace(errors);
            done.set(true);
        });
    }

    /// Looks at what the guest was doing, where that explains its end.
    fn look_back(&mut self, done: Rc<Cell<bool>>) -> Result<(), RunError> {
        let ending = self.ending.as_mut();
        let Some((ending, outcome)) = ending.and_then(|ending| {
            let outcome = ending.outcome.clone().ok()?;
            Some((ending, outcome))
        }) else {
            done.set(true);
            return Ok(());
        };
        if outcome.needs_explaining() {
            let registers = self.parts.vcpus.inspect()?;
            ending.vcpus = registers.iter().map(VcpuReport::new).collect();
        }
        match self
            .parts
            .core
            .clone()
            .filter(|_| outcome.is_worth_a_core())
        {
            Some(core) => {
                self.dump.wanted = Some(core);
                self.write_core(done)?;
            }
            None => done.set(true),
        }
        Ok(())
    }

    /// What there is to say of a machine that has come to its end.
    fn ended(&mut self) -> Result<Ended, RunError> {
        let Some(ending) = self.ending.take() else {
            unreachable!("nothing leads to an end but `end`")
        };
        let errors = ending.errors.take();
        let outcome = ending.outcome.map_err(RunError::Guest)?;
        if !errors.is_empty() {
            return Err(RunError::Closing(errors));
        }
        Ok(Ended {
            outcome,
            started: self.started,
            ended: ending.since,
            first_request: ending.first_request,
            vcpus: ending.vcpus,
            disks: ending.disks,
            core: self.dump.take(),
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

#[cfg(test)]
mod tests;
