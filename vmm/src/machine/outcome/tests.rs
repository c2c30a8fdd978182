use super::*;

#[test]
fn exit_statuses_do_not_meet() {
    let second = Duration::from_secs(1);
    let all = [
        (Outcome::PoweredOff, 0),
        (Outcome::Quit, 0),
        (Outcome::Left, 0),
        (Outcome::Signal, 0),
        (Outcome::Exited(0), 0),
        (Outcome::Exited(7), 7),
        (Outcome::Exited(99), 99),
        (Outcome::Exited(100), 99),
        (Outcome::Exited(u32::MAX), 99),
        (Outcome::Panicked(None), 101),
        (Outcome::Reset(ResetCause::Guest), 102),
        (Outcome::Reset(ResetCause::TripleFault), 102),
        (Outcome::Reset(ResetCause::Monitor), 102),
        (Outcome::TimedOut(second), 124),
    ];
    for (outcome, status) in all {
        assert_eq!(outcome.exit_status(), status, "{outcome:?}");
    }
}

#[test]
fn a_code_that_is_no_exit_status_is_told_in_full() {
    let reason = Outcome::Exited(4711).reason();
    assert_eq!(reason, "the guest ended with code 4711 (exit status 99)");
}
