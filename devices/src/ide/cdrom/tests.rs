use super::*;

const BLOCKS: u32 = 300_000;
const DVD_BLOCKS: u32 = 2_000_000;

fn drive() -> Cdrom {
    Cdrom::new("SERIAL-1".into())
}

fn packet(bytes: &[u8]) -> Packet {
    let mut packet = Packet::default();
    packet[..bytes.len()].copy_from_slice(bytes);
    packet
}

fn run(drive: &mut Cdrom, bytes: &[u8], blocks: u32) -> Result<Answer, Sense> {
    drive.execute(&packet(bytes), blocks)
}

fn reply(drive: &mut Cdrom, bytes: &[u8], blocks: u32) -> Vec<u8> {
    match run(drive, bytes, blocks) {
        Ok(Answer::Bytes(bytes)) => bytes,
        other => panic!("{bytes:x?}: {other:?}"),
    }
}

#[test]
fn inquiry_and_its_pages() {
    let mut drive = drive();
    let standard = reply(&mut drive, &[0x12, 0, 0, 0, 96], BLOCKS);
    assert_eq!(standard.len(), 36);
    assert_eq!(standard[..5], [0x05, 0x80, 0x05, 0x02, 31]);
    assert_eq!(standard[8..], *b"STRATA  DVD-ROM         1.0 ");
    let serial = reply(&mut drive, &[0x12, 1, 0x80, 0, 96], BLOCKS);
    assert_eq!(serial, *b"\x05\x80\x00\x08SERIAL-1");
    let name = reply(&mut drive, &[0x12, 1, 0x83, 1, 0], BLOCKS);
    assert_eq!(name[..8], [5, 0x83, 0, 36, 2, 1, 0, 32]);
    assert_eq!(name[8..], *b"STRATA  DVD-ROM         SERIAL-1");
    let pages = reply(&mut drive, &[0x12, 1, 0, 0, 96], BLOCKS);
    assert_eq!(pages, [5, 0, 0, 3, 0, 0x80, 0x83]);
    // No longer than the host allows.
    assert_eq!(reply(&mut drive, &[0x12, 0, 0, 0, 5], BLOCKS).len(), 5);
    for bad in [&[0x12, 1, 0x42, 0, 96][..], &[0x12, 0, 0x80, 0, 96]] {
        assert_eq!(run(&mut drive, bad, BLOCKS), Err(Sense::INVALID_FIELD));
    }
}

#[test]
fn reads_lie_on_the_disc() {
    let mut drive = drive();
    let last = (BLOCKS - 1).to_be_bytes();
    let read_10 = [0x28, 0, last[0], last[1], last[2], last[3], 0, 0, 1];
    let expected = Answer::Read {
        first: BLOCKS - 1,
        count: 1,
    };
    assert_eq!(run(&mut drive, &read_10, BLOCKS), Ok(expected));
    let read_12 = |first: u32, count: u32| {
        let head = [&[0xa8, 0][..], &first.to_be_bytes(), &count.to_be_bytes()];
        head.concat()
    };
    let all = Answer::Read {
        first: 0,
        count: BLOCKS,
    };
    assert_eq!(run(&mut drive, &read_12(0, BLOCKS), BLOCKS), Ok(all));
    for (first, count) in [(0, BLOCKS + 1), (BLOCKS, 0), (u32::MAX, 2), (1, u32::MAX)] {
        let result = run(&mut drive, &read_12(first, count), BLOCKS);
        assert_eq!(result, Err(Sense::OUT_OF_RANGE), "{first} {count}");
    }
    assert_eq!(
        run(&mut drive, &[0x2b, 0, 0, 0, 0, 9], BLOCKS),
        Ok(Answer::Done)
    );
}

#[test]
fn the_table_of_contents_has_one_track_of_data() {
    let mut drive = drive();
    let blocks = 75 * 60 * 10; // ten minutes
    let toc = reply(&mut drive, &[0x43, 0, 0, 0, 0, 0, 0, 0, 96], blocks);
    let [a, b, c, d] = blocks.to_be_bytes();
    let track = [0, 0x14, 1, 0, 0, 0, 0, 0];
    let end = [0, 0x14, 0xaa, 0, a, b, c, d];
    assert_eq!(toc, [&[0, 18, 1, 1][..], &track, &end].concat());
    let in_minutes = reply(&mut drive, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 96], blocks);
    assert_eq!(in_minutes, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 10, 2, 0]);
    let bad = run(&mut drive, &[0x43, 0, 0, 0, 0, 0, 2, 0, 96], blocks);
    assert_eq!(bad, Err(Sense::INVALID_FIELD));
    // The last session, by MMC's field and by SFF-8020i's.
    for command in [
        [0x43, 0, 1, 0, 0, 0, 0, 0, 12, 0],
        [0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40],
    ] {
        let sessions = reply(&mut drive, &command, blocks);
        assert_eq!(sessions, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    }
    let full = reply(&mut drive, &[0x43, 0, 2, 0, 0, 0, 0, 0, 96], blocks);
    assert_eq!((full.len(), full[1]), (48, 46));
    assert_eq!(full[26..37], [1, 0x14, 0, 0xa2, 0, 0, 0, 0, 10, 2, 0]);
}

#[test]
fn mode_pages_come_with_either_header() {
    let mut drive = drive();
    let long = reply(&mut drive, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128], BLOCKS);
    assert_eq!((long.len(), long[1], long[8], long[9]), (28, 26, 0x2a, 18));
    assert_eq!(long[14], 0x29, "a tray that may be locked");
    let short = reply(&mut drive, &[0x1a, 0, 0x3f, 0, 128], BLOCKS);
    assert_eq!(short[0] as usize, short.len() - 1);
    assert_eq!((short[4], short[12]), (0x01, 0x2a));
    let changeable = reply(&mut drive, &[0x5a, 0, 0x6a, 0, 0, 0, 0, 0, 128], BLOCKS);
    assert_eq!(changeable[10..], [0; 18]);
    for (bad, sense) in [(0xea, Sense::NOT_SAVED), (0x05, Sense::INVALID_FIELD)] {
        let result = run(&mut drive, &[0x5a, 0, bad, 0, 0, 0, 0, 0, 128], BLOCKS);
        assert_eq!(result, Err(sense));
    }
}

#[test]
fn the_profile_follows_the_disc() {
    let mut drive = drive();
    let all = [0x46, 0, 0, 0, 0, 0, 0, 1, 0];
    for (blocks, profile) in [(0, 0), (BLOCKS, 0x08), (DVD_BLOCKS, 0x10)] {
        let reply = reply(&mut drive, &all, blocks);
        assert_eq!(reply[7], profile);
        assert_eq!(u32::from(reply[3]) + 4, reply.len() as u32);
    }
    let numbers = |reply: &[u8]| {
        let (mut at, mut numbers) = (8, Vec::new());
        while at < reply.len() {
            numbers.push(reply[at + 1]);
            at += 4 + usize::from(reply[at + 3]);
        }
        numbers
    };
    let some = reply(&mut drive, &[0x46, 0, 0, 3, 0, 0, 0, 1, 0], BLOCKS);
    assert_eq!(numbers(&some), [3, 0x10, 0x1e]);
    let current = reply(&mut drive, &[0x46, 1, 0, 3, 0, 0, 0, 1, 0], DVD_BLOCKS);
    assert_eq!(numbers(&current), [3, 0x10]);
    let one = reply(&mut drive, &[0x46, 2, 0, 1, 0, 0, 0, 1, 0], BLOCKS);
    assert_eq!(numbers(&one), [1]);
}

#[test]
fn status_and_disc_information() {
    let mut drive = drive();
    let disc = reply(&mut drive, &[0x51, 0, 0, 0, 0, 0, 0, 0, 34], BLOCKS);
    assert_eq!((disc.len(), disc[1], disc[2]), (34, 32, 0x0e));
    let mechanism = reply(&mut drive, &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], BLOCKS);
    assert_eq!(mechanism, [0, 0, 0, 0, 0, 1, 0, 0]);
    let capacity = reply(&mut drive, &[0x25], BLOCKS);
    let [a, b, c, d] = (BLOCKS - 1).to_be_bytes();
    assert_eq!(capacity, [a, b, c, d, 0, 0, 8, 0]);
    // Writing is not among the commands.
    assert_eq!(
        run(&mut drive, &[0x2a], BLOCKS),
        Err(Sense::UNKNOWN_COMMAND)
    );
}

/// GET EVENT STATUS NOTIFICATION: the event, and the state of tray and disc.
fn event(drive: &mut Cdrom) -> (u8, u8) {
    let command = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    let status = reply(drive, &command, BLOCKS);
    assert_eq!(status[..4], [0, 4, 4, 0x10]);
    (status[4], status[5])
}

#[test]
fn the_tray_opens_unless_it_is_locked() {
    let mut drive = drive();
    let ready = [0x00];
    let eject = [0x1b, 0, 0, 0, 2];
    let load = [0x1b, 0, 0, 0, 3];
    assert_eq!(event(&mut drive), (0, 2));
    assert_eq!(
        run(&mut drive, &[0x1e, 0, 0, 0, 1], BLOCKS),
        Ok(Answer::Done)
    );
    assert_eq!(run(&mut drive, &eject, BLOCKS), Err(Sense::LOCKED));
    assert_eq!(run(&mut drive, &[0x1e], BLOCKS), Ok(Answer::Done));
    assert_eq!(run(&mut drive, &eject, BLOCKS), Ok(Answer::Done));
    assert_eq!(run(&mut drive, &ready, BLOCKS), Err(Sense::TRAY_OPEN));
    let sense = reply(&mut drive, &[3, 0, 0, 0, 18], BLOCKS);
    assert_eq!(
        [sense[0], sense[2], sense[12], sense[13]],
        [0x70, 2, 0x3a, 2]
    );
    assert_eq!((event(&mut drive), event(&mut drive)), ((3, 1), (0, 1)));
    // A reset of the machine does not close it.
    drive.power_on();
    assert_eq!(run(&mut drive, &[0x28], BLOCKS), Err(Sense::TRAY_OPEN));
    assert_eq!(run(&mut drive, &load, BLOCKS), Ok(Answer::Done));
    // It is reported to the host once, unless the host only asks what the drive is.
    assert!(run(&mut drive, &[0x12, 0, 0, 0, 36], BLOCKS).is_ok());
    assert_eq!(event(&mut drive), (2, 2));
    assert_eq!(run(&mut drive, &ready, BLOCKS), Err(Sense::MEDIUM_CHANGED));
    assert_eq!(run(&mut drive, &ready, BLOCKS), Ok(Answer::Done));
}

#[test]
fn an_empty_image_is_no_disc() {
    let mut drive = drive();
    for command in [&[0x00][..], &[0x28], &[0x25], &[0x43], &[0x51]] {
        assert_eq!(run(&mut drive, command, 0), Err(Sense::NO_MEDIUM));
    }
    // Only what is asked for is reported.
    let none = reply(&mut drive, &[0x4a, 1, 0, 0, 0x40, 0, 0, 0, 8], 0);
    assert_eq!(none, [0, 0, 0x80, 0x10]);
    assert_eq!(run(&mut drive, &[0x4a], 0), Err(Sense::INVALID_FIELD));
}
