use proptest::prelude::*;
use strata_storage::nbd::wire::proto::{
    EXTENDED_REQUEST_MAGIC, Errno, MAX_PAYLOAD, REQUEST_MAGIC, command::*,
};

use super::{Command, Header, Limits, Refusal};
use crate::nbd::MAX_BITMAPS;

const LIMITS: Limits = Limits {
    size: 1 << 40,
    block: 512,
    read_only: false,
    structured: true,
    contexts: true,
};

fn header(kind: u16, flags: u16, offset: u64, len: u64) -> Header {
    let payload = if kind == WRITE { len as u32 } else { 0 };
    let cookie = 7;
    Header {
        flags,
        kind,
        cookie,
        offset,
        len,
        payload,
    }
}

fn compact(magic: u32, flags: u16, kind: u16, len: u32) -> Vec<u8> {
    [
        magic.to_be_bytes().as_slice(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &7u64.to_be_bytes(),
        &512u64.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}

fn extended(magic: u32, flags: u16, kind: u16, len: u64) -> Vec<u8> {
    let start = compact(magic, flags, kind, 0);
    [&start[..24], &len.to_be_bytes()].concat()
}

#[test]
fn both_kinds_of_header_say_the_same() {
    let expected = header(READ, 0, 512, 1024);
    assert_eq!(
        Header::parse(&compact(REQUEST_MAGIC, 0, READ, 1024)),
        Ok(expected)
    );
    assert_eq!(
        Header::parse(&extended(EXTENDED_REQUEST_MAGIC, 0, READ, 1024)),
        Ok(expected)
    );
}

#[test]
fn a_payload_is_where_the_kind_of_header_says() {
    let compact = |flags, kind, len| Header::parse(&compact(REQUEST_MAGIC, flags, kind, len));
    let extended =
        |flags, kind, len| Header::parse(&extended(EXTENDED_REQUEST_MAGIC, flags, kind, len));
    assert_eq!(
        compact(0, WRITE, MAX_PAYLOAD).map(|h| h.payload),
        Ok(MAX_PAYLOAD)
    );
    assert!(compact(0, WRITE, MAX_PAYLOAD + 1).is_err());
    assert_eq!(compact(0x20, READ, 512).map(|h| h.payload), Ok(0));
    assert_eq!(compact(0, TRIM, u32::MAX).map(|h| h.payload), Ok(0));
    assert_eq!(extended(0x20, BLOCK_STATUS, 12).map(|h| h.payload), Ok(12));
    assert_eq!(extended(0, WRITE, 512).map(|h| h.payload), Ok(0));
    assert_eq!(
        extended(0, TRIM, u64::MAX).map(|h| (h.payload, h.len)),
        Ok((0, u64::MAX))
    );
    assert!(extended(0x20, WRITE, u64::from(MAX_PAYLOAD) + 1).is_err());
    assert!(extended(0x20, WRITE, 1 << 32).is_err());
}

#[test]
fn the_wrong_magic_number_is_a_violation() {
    for magic in [
        0,
        EXTENDED_REQUEST_MAGIC,
        0x1256_0953,
        REQUEST_MAGIC.swap_bytes(),
    ] {
        assert!(Header::parse(&compact(magic, 0, READ, 0)).is_err());
    }
    assert!(Header::parse(&extended(REQUEST_MAGIC, 0, READ, 0)).is_err());
}

#[test]
fn what_is_wrong_gets_its_error_number() {
    let errno = |header: Header, limits: &Limits, extended: bool| {
        header
            .command(limits, extended)
            .map_err(|Refusal { errno, .. }| errno)
            .err()
    };
    let read_only = Limits {
        read_only: true,
        ..LIMITS
    };
    let simple = Limits {
        structured: false,
        contexts: false,
        ..LIMITS
    };
    let end = LIMITS.size;
    for (header, limits, extended, expected) in [
        (header(READ, 0, end, 512), LIMITS, false, Some(Errno::Inval)),
        (header(READ, 0, end - 512, 512), LIMITS, false, None),
        (header(READ, 0, end, 0), LIMITS, false, None),
        (
            header(READ, 0, u64::MAX - 511, 512),
            LIMITS,
            false,
            Some(Errno::Inval),
        ),
        (header(READ, 0, 1, 512), LIMITS, false, Some(Errno::Inval)),
        (header(READ, 0, 0, 513), LIMITS, false, Some(Errno::Inval)),
        (
            header(READ, 0, 0, (32 << 20) + 512),
            LIMITS,
            false,
            Some(Errno::Overflow),
        ),
        (
            header(READ, 0, 0, (32 << 20) + 512),
            simple,
            false,
            Some(Errno::Inval),
        ),
        (header(READ, 4, 0, 512), LIMITS, false, None),
        (header(READ, 4, 0, 512), simple, false, Some(Errno::Inval)),
        (header(READ, 1, 0, 512), LIMITS, false, None),
        (header(READ, 2, 0, 512), LIMITS, false, Some(Errno::Inval)),
        (header(READ, 0x20, 0, 512), LIMITS, true, Some(Errno::Inval)),
        (
            header(READ, 0x8000, 0, 512),
            LIMITS,
            false,
            Some(Errno::Inval),
        ),
        (
            header(WRITE, 0, end, 512),
            LIMITS,
            false,
            Some(Errno::NoSpace),
        ),
        (
            header(WRITE, 0, u64::MAX - 511, 1024),
            LIMITS,
            false,
            Some(Errno::NoSpace),
        ),
        (
            header(WRITE, 0, 0, 512),
            read_only,
            false,
            Some(Errno::Perm),
        ),
        (header(WRITE, 0x20, 0, 512), LIMITS, true, None),
        (header(WRITE, 0, 0, 512), LIMITS, true, Some(Errno::Inval)),
        (
            header(WRITE, 0x20, 0, 512),
            LIMITS,
            false,
            Some(Errno::Inval),
        ),
        (header(WRITE_ZEROES, 0x12, 0, end), LIMITS, true, None),
        (
            header(WRITE_ZEROES, 0, 512, end),
            LIMITS,
            true,
            Some(Errno::NoSpace),
        ),
        (
            header(WRITE_ZEROES, 0, 0, 512),
            read_only,
            false,
            Some(Errno::Perm),
        ),
        (header(TRIM, 0, 512, end), LIMITS, true, Some(Errno::Inval)),
        (header(TRIM, 0, 0, 512), read_only, false, Some(Errno::Perm)),
        (header(CACHE, 0, 512, end), LIMITS, true, Some(Errno::Inval)),
        (header(CACHE, 0, 0, end), read_only, true, None),
        (header(FLUSH, 0, end, 5), read_only, false, None),
        (header(FLUSH, 4, 0, 0), LIMITS, false, Some(Errno::Inval)),
        (header(BLOCK_STATUS, 8, 0, end), LIMITS, true, None),
        (
            header(BLOCK_STATUS, 0, 0, 512),
            simple,
            false,
            Some(Errno::Inval),
        ),
        (
            header(BLOCK_STATUS, 0, 0, 0),
            LIMITS,
            false,
            Some(Errno::Inval),
        ),
        (
            header(BLOCK_STATUS, 0, end, 512),
            LIMITS,
            false,
            Some(Errno::Inval),
        ),
        (header(8, 0, 0, 512), LIMITS, false, Some(Errno::Inval)),
        (header(0xffff, 0, 0, 512), LIMITS, false, Some(Errno::Inval)),
    ] {
        assert_eq!(
            errno(header, &limits, extended),
            expected,
            "{header:?} {limits:?}"
        );
    }
}

#[test]
fn flags_reach_the_command() {
    let command = |kind, flags| header(kind, flags, 0, 512).command(&LIMITS, false).unwrap();
    let (offset, len) = (0, 512);
    assert_eq!(
        command(READ, 4),
        Command::Read {
            offset,
            len,
            whole: true
        }
    );
    assert_eq!(
        command(WRITE, 1),
        Command::Write {
            offset,
            len,
            fua: true
        }
    );
    assert_eq!(
        command(TRIM, 0),
        Command::Trim {
            offset,
            len,
            fua: false
        }
    );
    assert_eq!(
        command(BLOCK_STATUS, 8),
        Command::Status {
            offset,
            len,
            one: true
        }
    );
    let zero = |unmap, fast, fua| Command::Zero {
        offset,
        len,
        unmap,
        fast,
        fua,
    };
    assert_eq!(command(WRITE_ZEROES, 0), zero(true, false, false));
    assert_eq!(command(WRITE_ZEROES, 0x13), zero(false, true, true));
}

proptest! {
    /// Whatever is let through is aligned and within the export, and fits the client's memory.
    #[test]
    fn nothing_gets_through_that_is_outside(
        bytes in prop::collection::vec(any::<u8>(), 24),
        offset in prop_oneof![any::<u64>(), 0..1u64 << 41],
        len in prop_oneof![any::<u64>(), 0..1u64 << 26],
        aligned: bool,
        read_only: bool,
    ) {
        let mask = if aligned { !511 } else { u64::MAX };
        let kind = bytes[7] % 10;
        let head = [
            &EXTENDED_REQUEST_MAGIC.to_be_bytes()[..],
            &[0, bytes[5] & 0x3f, 0, kind],
            &bytes[8..16],
            &(offset & mask).to_be_bytes(),
            &(len & mask).to_be_bytes(),
        ]
        .concat();
        let Ok(header) = Header::parse(&head) else { return Ok(()) };
        prop_assert!(header.payload <= MAX_PAYLOAD);
        let limits = Limits { read_only, ..LIMITS };
        if let Ok(command) = header.command(&limits, true) {
            prop_assert!(command.cost(2 + MAX_BITMAPS) <= u64::from(MAX_PAYLOAD));
            if !matches!(command, Command::Flush) {
                prop_assert!(header.offset + header.len <= limits.size);
                prop_assert_eq!((header.offset | header.len) % 512, 0);
            }
            let reads = matches!(
                command,
                Command::Read { .. } | Command::Flush | Command::Cache { .. } | Command::Status { .. }
            );
            prop_assert!(reads || !read_only);
        }
    }
}
