//! What commands answer, byte by byte (MMC-6; pages of INQUIRY and MODE SENSE: SPC-3).

use super::{BLOCK, Sense};

const VENDOR: &[u8; 8] = b"STRATA  ";
const PRODUCT: &[u8; 16] = b"DVD-ROM         ";
const REVISION: &[u8; 4] = b"1.0 ";
/// CD and DVD drives.
const DEVICE_TYPE: u8 = 0x05;
/// The only track of the disc.
const TRACK: u8 = 1;
/// What stands for a track behind the last one.
const LEAD_OUT: u8 = 0xaa;
/// A track of data, its position in the Q channel.
const DATA_TRACK: u8 = 0x14;
/// Bytes of a block.
const BLOCK_LEN: u32 = 2048;
const _: () = assert!(BLOCK_LEN as u64 == BLOCK);
/// Blocks on the largest CD, of 80 minutes; what is larger is a DVD.
const CD_BLOCKS: u32 = 80 * 60 * 75;
/// A tray with a motor that can be locked (the same in page 2Ah and in feature 3).
const MECHANISM: u8 = 0x29;
/// 4 times the speed of an audio CD, in 1,000 bytes a second.
const SPEED: u16 = 706;
/// Sectors of an audio CD before block 0.
const PREGAP: u32 = 150;

/// The length of a part of a reply.
fn short(part: &[u8]) -> u8 {
    u8::try_from(part.len()).expect("what a drive says of itself is short")
}

/// REQUEST SENSE: current, fixed format.
pub fn sense(sense: Sense) -> Vec<u8> {
    let mut reply = vec![0; 18];
    reply[0] = 0x70;
    reply[2] = sense.key as u8;
    reply[7] = 10; // bytes that follow
    (reply[12], reply[13]) = sense.code;
    reply
}

/// INQUIRY without a page.
pub fn inquiry() -> Vec<u8> {
    const REMOVABLE: u8 = 0x80;
    const SPC_3: u8 = 0x05;
    const FORMAT: u8 = 0x02;
    let mut reply = vec![DEVICE_TYPE, REMOVABLE, SPC_3, FORMAT, 31, 0, 0, 0];
    reply.extend(VENDOR);
    reply.extend(PRODUCT);
    reply.extend(REVISION);
    reply
}

/// INQUIRY with a page of vital product data; `None` if there is no such page.
pub fn vital_product_data(page: u8, serial: &str) -> Option<Vec<u8>> {
    const PAGES: u8 = 0x00;
    const SERIAL: u8 = 0x80;
    const IDENTIFICATION: u8 = 0x83;
    let serial: Vec<u8> = serial.bytes().take(20).collect();
    let body = match page {
        PAGES => vec![PAGES, SERIAL, IDENTIFICATION],
        SERIAL => serial,
        IDENTIFICATION => {
            // One descriptor: ASCII, of the logical unit, a T10 vendor's name and what it adds.
            let name = [&VENDOR[..], PRODUCT, &serial].concat();
            let mut body = vec![0x02, 0x01, 0, short(&name)];
            body.extend(name);
            body
        }
        _ => return None,
    };
    let mut reply = vec![DEVICE_TYPE, page, 0, short(&body)];
    reply.extend(body);
    Some(reply)
}

/// READ CAPACITY: the last block, and the size of blocks.
pub fn capacity(blocks: u32) -> Vec<u8> {
    let last = blocks.saturating_sub(1);
    [last.to_be_bytes(), BLOCK_LEN.to_be_bytes()].concat()
}

/// How MODE SENSE begins its reply.
#[derive(Debug, Clone, Copy)]
pub enum ModeHeader {
    /// MODE SENSE(6).
    Short,
    /// MODE SENSE(10).
    Long,
}

/// MODE SENSE: one page, or all of them (3Fh); `None` if there is no such page. Nothing can be
/// changed.
pub fn mode_pages(page: u8, locked: bool, changeable: bool, header: ModeHeader) -> Option<Vec<u8>> {
    const ERROR_RECOVERY: u8 = 0x01;
    const CAPABILITIES: u8 = 0x2a;
    const ALL: u8 = 0x3f;
    const RETRIES: u8 = 5;
    /// Reads CD-R, CD-RW and DVD-ROM.
    const READS: u8 = 0x0b;
    /// Blocks of mode 2, form 1, and more than one session.
    const FORMATS: u8 = 0x50;
    const IS_LOCKED: u8 = 1 << 1;
    const BUFFER_KIB: u16 = 512;
    let recovery = [0, RETRIES, 0, 0, 0, 0];
    let [speed_high, speed_low] = SPEED.to_be_bytes();
    let [buffer_high, buffer_low] = BUFFER_KIB.to_be_bytes();
    let lock = if locked { IS_LOCKED } else { 0 };
    let capabilities = [
        READS,
        0,
        FORMATS,
        0,
        MECHANISM | lock,
        0,
        speed_high,
        speed_low,
        0,
        0,
        buffer_high,
        buffer_low,
        speed_high,
        speed_low,
        0,
        0,
        0,
        0,
    ];
    let mut pages = Vec::new();
    for (code, body) in [
        (ERROR_RECOVERY, &recovery[..]),
        (CAPABILITIES, &capabilities),
    ] {
        if page == code || page == ALL {
            pages.extend([code, short(body)]);
            pages.extend(body.iter().map(|byte| if changeable { 0 } else { *byte }));
        }
    }
    if pages.is_empty() {
        return None;
    }
    let mut reply = match header {
        ModeHeader::Short => vec![short(&pages) + 3, 0, 0, 0],
        ModeHeader::Long => vec![0, short(&pages) + 6, 0, 0, 0, 0, 0, 0],
    };
    reply.extend(pages);
    Some(reply)
}

/// Which features GET CONFIGURATION is to list, from the one given on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// Those that the disc makes possible.
    Current,
    /// Only the one given.
    One,
}

/// GET CONFIGURATION with a disc of `blocks` blocks; 0 for none.
pub fn configuration(wanted: Wanted, from: u16, blocks: u32) -> Vec<u8> {
    const CD_ROM: u16 = 0x0008;
    const DVD_ROM: u16 = 0x0010;
    const ATAPI: [u8; 4] = [0, 0, 0, 2];
    let profile = match blocks {
        0 => 0,
        1..=CD_BLOCKS => CD_ROM,
        _ => DVD_ROM,
    };
    let has_disc = blocks > 0;
    let profiles = [DVD_ROM, CD_ROM].map(|number| {
        let [high, low] = number.to_be_bytes();
        [high, low, u8::from(number == profile), 0]
    });
    let core = [ATAPI, [0; 4]].concat();
    let random = [BLOCK_LEN.to_be_bytes(), [0, 1, 1, 0]].concat();
    // Number, version, always there, current, and what it says of itself.
    let features: [(u16, u8, bool, bool, &[u8]); 6] = [
        (0x0000, 0, true, true, profiles.as_flattened()),
        (0x0001, 2, true, true, &core),
        (0x0002, 1, true, true, &[0; 4]),
        (0x0003, 0, true, true, &[MECHANISM, 0, 0, 0]),
        (0x0010, 0, false, has_disc, &random),
        (0x001e, 2, false, profile == CD_ROM, &[0; 4]),
    ];
    let mut list = Vec::new();
    for (number, version, persistent, current, data) in features {
        let listed = match wanted {
            Wanted::All => number >= from,
            Wanted::Current => number >= from && current,
            Wanted::One => number == from,
        };
        if listed {
            list.extend(number.to_be_bytes());
            list.push(version << 2 | u8::from(persistent) << 1 | u8::from(current));
            list.push(short(data));
            list.extend(data);
        }
    }
    let mut reply = (u32::from(short(&list)) + 4).to_be_bytes().to_vec();
    reply.extend([0, 0]);
    reply.extend(profile.to_be_bytes());
    reply.extend(list);
    reply
}

/// GET EVENT STATUS NOTIFICATION: the event and the state of tray and disc, or that there is no
/// such class of events as was asked for.
pub fn event_status(media: Option<(u8, u8)>) -> Vec<u8> {
    const NONE_AVAILABLE: u8 = 0x80;
    const MEDIA: u8 = 4;
    const SUPPORTED: u8 = 1 << MEDIA;
    match media {
        Some((event, state)) => vec![0, 4, MEDIA, SUPPORTED, event, state, 0, 0],
        None => vec![0, 0, NONE_AVAILABLE, SUPPORTED],
    }
}

/// MECHANISM STATUS of a drive that is no changer.
pub fn mechanism_status(tray_open: bool) -> Vec<u8> {
    const DOOR_OPEN: u8 = 1 << 4;
    let door = if tray_open { DOOR_OPEN } else { 0 };
    vec![0, door, 0, 0, 0, 1, 0, 0]
}

/// READ DISC INFORMATION: a finished disc of one session and one track.
pub fn disc_information() -> Vec<u8> {
    const COMPLETE: u8 = 0x0e;
    const UNRESTRICTED: u8 = 0x20;
    let mut reply = vec![0; 34];
    reply[1] = 32; // bytes that follow
    reply[2] = COMPLETE;
    // First track, sessions, first and last track of the last session.
    reply[3..7].fill(1);
    reply[7] = UNRESTRICTED;
    // No place where another session could be written.
    reply[16..24].fill(0xff);
    reply
}

/// The address of a block, by its number or in minutes, seconds and frames.
fn address(block: u32, in_minutes: bool) -> [u8; 4] {
    if in_minutes {
        let [minute, second, frame] = minutes(block);
        [0, minute, second, frame]
    } else {
        block.to_be_bytes()
    }
}

fn minutes(block: u32) -> [u8; 3] {
    let frames = u64::from(block) + u64::from(PREGAP);
    [frames / 75 / 60, frames / 75 % 60, frames % 75]
        .map(|number| u8::try_from(number).unwrap_or(u8::MAX))
}

/// READ TOC, format 0: the tracks from `first` on; `None` if there is none.
pub fn toc(first: u8, in_minutes: bool, blocks: u32) -> Option<Vec<u8>> {
    let mut tracks = Vec::new();
    for (track, block) in [(TRACK, 0), (LEAD_OUT, blocks)] {
        if track >= first {
            tracks.extend([0, DATA_TRACK, track, 0]);
            tracks.extend(address(block, in_minutes));
        }
    }
    let is_track = first <= TRACK || first == LEAD_OUT;
    is_track.then(|| with_toc_header(tracks))
}

/// READ TOC, format 1: where the last session begins.
pub fn sessions(in_minutes: bool) -> Vec<u8> {
    let mut session = vec![0, DATA_TRACK, TRACK, 0];
    session.extend(address(0, in_minutes));
    with_toc_header(session)
}

/// READ TOC, format 2: the Q channel of the lead-in, which counts in minutes.
pub fn full_toc(blocks: u32) -> Vec<u8> {
    let [minute, second, frame] = minutes(blocks);
    let [first_minute, first_second, first_frame] = minutes(0);
    let mut entries = Vec::new();
    for (point, position) in [
        (0xa0, [TRACK, 0, 0]),
        (0xa1, [TRACK, 0, 0]),
        (0xa2, [minute, second, frame]),
        (TRACK, [first_minute, first_second, first_frame]),
    ] {
        entries.extend([TRACK, DATA_TRACK, 0, point, 0, 0, 0, 0]);
        entries.extend(position);
    }
    with_toc_header(entries)
}

/// Length, first and last track (or session), which are both 1.
fn with_toc_header(entries: Vec<u8>) -> Vec<u8> {
    let len = short(&entries) + 2;
    [vec![0, len, 1, 1], entries].concat()
}
