//! The steps to each goal, and who waits on the way.

use strata_block::api::Cmd;

use super::*;
use crate::{
    machine::post::GuestEvent,
    monitor::{Answer, Mailbox},
};

const PAUSE: Goal = Goal::Stop(RunState::Paused);
const RESET: Goal = Goal::Reset { guest: true };

/// Takes every step, and returns which there were.
fn walk(course: &mut Course) -> Vec<Progress> {
    std::iter::from_fn(|| course.step_done()).collect()
}

#[test]
fn each_goal_has_its_steps() {
    use Progress::{Next, Reached};
    for (goal, then) in [
        (PAUSE, vec![Next(Step::Flush), Reached(PAUSE)]),
        (
            RESET,
            vec![Next(Step::Flush), Next(Step::ResetDevices), Reached(RESET)],
        ),
        (
            Goal::Suspend,
            vec![Next(Step::Flush), Reached(Goal::Suspend)],
        ),
        (
            Goal::WakeUp,
            vec![
                Next(Step::Flush),
                Next(Step::ResetDevices),
                Reached(Goal::WakeUp),
            ],
        ),
        (Goal::Dump, vec![Next(Step::Dump), Reached(Goal::Dump)]),
        (
            Goal::End,
            vec![
                Next(Step::Flush),
                Next(Step::LookBack),
                Next(Step::Close),
                Reached(Goal::End),
            ],
        ),
    ] {
        let mut course = Course::default();
        assert!(course.is_steady() && course.step().is_none());
        assert_eq!(course.add(goal), Some(Step::Drain));
        assert!(!course.is_steady() && course.leads_to(goal));
        assert_eq!(walk(&mut course), then);
        assert!(course.is_steady() && course.step_done().is_none());
    }
}

#[test]
fn goals_are_reached_one_after_another() {
    let mut course = Course::default();
    assert_eq!(course.add(PAUSE), Some(Step::Drain));
    assert_eq!(course.step_done(), Some(Progress::Next(Step::Flush)));
    // It does not disturb the step that is under way.
    assert_eq!(course.add(RESET), None);
    assert_eq!(course.step(), Some(Step::Flush));
    assert!(course.leads_to(PAUSE) && course.leads_to(RESET));
    assert_eq!(course.step_done(), Some(Progress::Reached(PAUSE)));
    assert_eq!(course.step(), Some(Step::Drain));
    assert!(!course.leads_to(PAUSE));
    assert_eq!(walk(&mut course).last(), Some(&Progress::Reached(RESET)));
    assert!(course.is_steady());
}

/// Every kind of message.
fn messages() -> Vec<(Message, Admission)> {
    let notifier = Mailbox::new().unwrap().notifier();
    let action = |action| Message::Action(action, Answer::new(0, notifier.clone()));
    vec![
        (
            action(Action::Block(Box::new(Cmd::QueryBlock))),
            Admission::Now,
        ),
        (action(Action::Stop), Admission::Later),
        (action(Action::Cont), Admission::Later),
        (action(Action::SystemReset), Admission::Later),
        (action(Action::SystemPowerdown), Admission::Later),
        (action(Action::SystemWakeup), Admission::Later),
        (action(Action::Quit), Admission::LaterAndHurry),
        (Message::Guest(GuestEvent::Reset), Admission::Later),
        (Message::Guest(GuestEvent::PowerOff), Admission::Later),
        (Message::Leave, Admission::LaterAndHurry),
        (Message::Signal, Admission::LaterAndHurry),
    ]
}

#[test]
fn a_steady_machine_attends_to_everything_at_once() {
    let course = Course::default();
    for (message, _) in messages() {
        assert_eq!(course.admit(&message), Admission::Now, "{message:?}");
    }
}

#[test]
fn on_the_way_disks_answer_and_who_wants_an_end_hurries() {
    for goal in [PAUSE, RESET, Goal::End] {
        let mut course = Course::default();
        course.add(goal);
        while !course.is_steady() {
            for (message, expected) in messages() {
                assert_eq!(course.admit(&message), expected, "{goal:?} {message:?}");
            }
            course.step_done();
        }
    }
}
