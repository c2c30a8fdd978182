use super::*;
use crate::stream::EXTENT_UNITS;

const UNITS: u32 = 1950;
const LANE: Lane = Lane {
    disk: 0,
    number: 0,
    disk_units: UNITS,
};

fn run(seed: u64, flushed: u32) -> Run {
    Run {
        seed,
        flushed: vec![flushed, 0, 0],
    }
}

fn writes(seed: u64, unit: u32, range: std::ops::Range<u32>) -> Vec<u32> {
    let covers =
        |op: &u32| matches!(LANE.op(seed, *op), Op::Write(span) if span.units().contains(&unit));
    range.filter(covers).collect()
}

/// A unit that run 1 writes at least twice before operation 400 and twice after, as run 2 does.
fn busy_unit() -> u32 {
    let is_busy = |unit: &u32| {
        [1, 2].iter().all(|&seed| {
            writes(seed, *unit, 0..400).len() > 1 && writes(seed, *unit, 400..800).len() > 1
        })
    };
    (0..EXTENT_UNITS).find(is_busy).unwrap()
}

fn verdict(unit: u32, content: Content, history: &[Run]) -> Option<Counts> {
    let wanted = required(&[LANE], UNITS, history)[unit as usize];
    let mut counts = Counts::default();
    let place = Place { lane: LANE, unit };
    judge(place, content, wanted, history, &mut counts).map(|count| *count += 1)?;
    Some(counts)
}

fn holds(unit: u32, seed: u64, op: u32) -> Content {
    Content::Intact(Stamp {
        seed,
        disk: 0,
        unit,
        op,
    })
}

const ACKNOWLEDGED: Option<Counts> = Some(Counts {
    acknowledged: 1,
    newer: 0,
    never: 0,
});
const NEWER: Option<Counts> = Some(Counts {
    acknowledged: 0,
    newer: 1,
    never: 0,
});
const NEVER: Option<Counts> = Some(Counts {
    acknowledged: 0,
    newer: 0,
    never: 1,
});

#[test]
fn the_last_acknowledged_write_must_be_there_or_a_later_one() {
    let unit = busy_unit();
    let before = writes(1, unit, 0..400);
    let after = writes(1, unit, 400..800);
    let history = [run(1, 400)];
    let [.., stale, last] = before[..] else {
        panic!()
    };
    assert_eq!(verdict(unit, holds(unit, 1, last), &history), ACKNOWLEDGED);
    assert_eq!(verdict(unit, holds(unit, 1, after[0]), &history), NEWER);
    assert_eq!(verdict(unit, holds(unit, 1, after[1]), &history), NEWER);
    assert_eq!(verdict(unit, holds(unit, 1, stale), &history), None);
    assert_eq!(verdict(unit, Content::Zeros, &history), None);
}

#[test]
fn a_write_that_was_never_issued_here_is_wrong() {
    let unit = busy_unit();
    let history = [run(1, 400)];
    let elsewhere = (400..)
        .find(|&op| writes(1, unit, op..op + 1).is_empty())
        .unwrap();
    assert_eq!(verdict(unit, holds(unit, 1, elsewhere), &history), None);
    let newer = writes(1, unit, 400..800)[0];
    assert_eq!(verdict(unit, holds(unit + 1, 1, newer), &history), None);
    assert_eq!(verdict(unit, holds(unit, 3, newer), &history), None);
    let torn = Content::Torn(
        Stamp {
            seed: 1,
            disk: 0,
            unit,
            op: newer,
        },
        512,
    );
    assert_eq!(verdict(unit, torn, &history), None);
    assert_eq!(verdict(unit, Content::Foreign(1), &history), None);
}

#[test]
fn runs_compose() {
    let unit = busy_unit();
    let history = [run(1, 400), run(2, 400)];
    let last_of_1 = *writes(1, unit, 0..400).last().unwrap();
    let last_of_2 = *writes(2, unit, 0..400).last().unwrap();
    assert_eq!(
        verdict(unit, holds(unit, 2, last_of_2), &history),
        ACKNOWLEDGED
    );
    assert_eq!(verdict(unit, holds(unit, 1, last_of_1), &history), None);
    assert_eq!(
        verdict(unit, holds(unit, 1, writes(1, unit, 400..800)[0]), &history),
        None
    );

    // Run 2 ended before it had anything acknowledged: all that run 1 allows is still allowed.
    let history = [run(1, 400), run(2, 0)];
    assert_eq!(
        verdict(unit, holds(unit, 1, last_of_1), &history),
        ACKNOWLEDGED
    );
    assert_eq!(
        verdict(unit, holds(unit, 1, writes(1, unit, 400..800)[0]), &history),
        NEWER
    );
    assert_eq!(verdict(unit, holds(unit, 2, last_of_2), &history), NEWER);
    assert_eq!(verdict(unit, Content::Zeros, &history), None);
}

#[test]
fn a_unit_without_an_acknowledged_write_may_be_zeros_or_written() {
    let unit = busy_unit();
    let history = [run(1, 0)];
    assert_eq!(verdict(unit, Content::Zeros, &history), NEVER);
    assert_eq!(
        verdict(unit, holds(unit, 1, writes(1, unit, 0..400)[0]), &history),
        NEWER
    );
    assert_eq!(verdict(unit, Content::Foreign(5), &history), None);
}
