use super::*;

const DISK_UNITS: u32 = 65_536;

fn lanes() -> impl Iterator<Item = Lane> {
    (0..2).flat_map(|disk| {
        (0..LANES_PER_DISK).map(move |number| Lane {
            disk,
            number,
            disk_units: DISK_UNITS,
        })
    })
}

#[test]
fn a_lane_stays_inside_its_extents_and_the_disk() {
    for lane in lanes() {
        for index in 0..20_000 {
            let (Op::Write(span) | Op::Read(span)) = lane.op(42, index) else {
                continue;
            };
            assert!((1..=MAX_UNITS).contains(&span.count), "{span:?}");
            assert!(span.first + span.count <= DISK_UNITS, "{span:?}");
            assert!(
                span.units().all(|unit| lane_of(unit) == lane.number),
                "{span:?}"
            );
        }
    }
}

#[test]
fn the_smallest_usable_disk_has_an_extent_for_every_lane() {
    let units = EXTENT_UNITS * LANES_PER_DISK;
    let lane = |disk_units| Lane {
        disk: 0,
        number: LANES_PER_DISK - 1,
        disk_units,
    };
    assert!(lane(units).is_usable());
    assert!(!lane(units - 1).is_usable());
    for index in 0..1000 {
        if let Op::Write(span) | Op::Read(span) = lane(units).op(1, index) {
            assert!(span.first + span.count <= units);
        }
    }
}

#[test]
fn every_kind_and_length_occurs() {
    let lane = lanes().next().unwrap();
    let (mut writes, mut reads, mut flushes) = (0, 0, 0);
    let mut lengths = [0; MAX_UNITS as usize + 1];
    for index in 0..20_000 {
        match lane.op(3, index) {
            Op::Flush => flushes += 1,
            Op::Read(_) => reads += 1,
            Op::Write(span) => {
                writes += 1;
                lengths[span.count as usize] += 1;
            }
        }
    }
    assert!(writes > reads && reads > flushes && flushes > 1000);
    assert!(lengths[1..].iter().all(|&n| n > 0), "{lengths:?}");
}

#[test]
fn lanes_and_seeds_differ_but_a_stream_repeats() {
    let streams: Vec<Vec<Op>> = lanes()
        .flat_map(|lane| [1, 2].map(|seed| (0..50).map(|i| lane.op(seed, i)).collect()))
        .collect();
    for (i, a) in streams.iter().enumerate() {
        assert!(streams[..i].iter().all(|b| a != b));
    }
    let again: Vec<Op> = (0..50).map(|i| lanes().next().unwrap().op(1, i)).collect();
    assert_eq!(streams[0], again);
}
