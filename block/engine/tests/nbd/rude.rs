//! Clients that break the rules, leave in the middle or do not read. Each time another client must
//! still be served.

use std::{io::Write, net::Shutdown};

use crate::{
    hand::{Client, DISC, EXPORT_NAME, LIST, OPTION_MAGIC, READ, WRITE, request},
    served::Served,
};

const MIB: u64 = 1 << 20;

/// A well-behaved client is served.
fn others_are_served(served: &Served) {
    let mut client = Client::attached(served);
    client.request(WRITE, 512, 512);
    client.send(&[&[9; 512]]);
    assert_eq!(client.reply(0).0, 0);
    client.request(READ, 512, 512);
    assert_eq!(client.reply(512), (0, vec![9; 512]));
    client.request(DISC, 0, 0);
    client.expect_closed();
}

#[test]
fn garbage_at_any_stage_closes_the_connection() {
    let served = Served::raw(MIB);
    let mut flags = Client(served.connect());
    flags.get(18);
    flags.send(&[&0x80u32.to_be_bytes()]);
    flags.expect_closed();

    let mut option = Client::greeted(&served);
    option.send(&[&[0xab; 16]]);
    option.expect_closed();

    let mut long = Client::greeted(&served);
    let huge = u32::MAX.to_be_bytes();
    long.send(&[&OPTION_MAGIC.to_be_bytes(), &LIST.to_be_bytes(), &huge]);
    long.expect_closed();

    let mut unknown = Client::greeted(&served);
    unknown.option(EXPORT_NAME, b"nobody");
    unknown.expect_closed();

    let mut magic = Client::attached(&served);
    magic.send(&[&[0xab; 28]]);
    magic.expect_closed();

    let mut payload = Client::attached(&served);
    payload.request(WRITE, 0, (32 << 20) + 512);
    payload.expect_closed();
    others_are_served(&served);
}

#[test]
fn unknown_options_and_commands_get_an_error_and_nothing_else_changes() {
    let served = Served::raw(MIB);
    let mut client = Client::greeted(&served);
    const UNSUP: u32 = (1 << 31) + 1;
    const POLICY: u32 = (1 << 31) + 2;
    const INVALID: u32 = (1 << 31) + 3;
    const TOO_BIG: u32 = (1 << 31) + 9;
    for (option, data, error) in [
        (77, &b"what"[..], UNSUP),
        // STARTTLS, without certificates: forbidden rather than unknown.
        (5, b"", POLICY),
        (LIST, b"data", INVALID),
        (7, b"\0\0\0\x09disk\0\0", INVALID),
        (10, b"\0\0\0\x04disk\0\0\0\0", INVALID),
        (77, &[0; 100_000], TOO_BIG),
    ] {
        client.option(option, data);
        assert_eq!(client.answer().0, error, "option {option}");
    }
    client.option(EXPORT_NAME, b"disk");
    client.get(10);
    client.request(99, 0, 512);
    assert_eq!(client.reply(0).0, 22);
    client.request(READ, 0, 512);
    assert_eq!(client.reply(512), (0, vec![0; 512]));
}

#[test]
fn half_a_write_changes_nothing_and_a_whole_one_before_leaving_counts() {
    let served = Served::raw(MIB);
    let mut half = Client::attached(&served);
    half.send(&[&request(WRITE, 0, 4096), &[1; 4095]]);
    half.0.shutdown(Shutdown::Write).unwrap();
    half.expect_closed();

    let mut header = Client::attached(&served);
    header.send(&[&request(WRITE, 0, 4096)[..20]]);
    drop(header);

    let mut hasty = Client::attached(&served);
    hasty.send(&[
        &request(WRITE, 8192, 4096),
        &[2; 4096],
        &request(DISC, 0, 0),
    ]);
    let (error, _) = hasty.reply(0);
    assert_eq!(error, 0);
    hasty.expect_closed();

    let mut reader = Client::attached(&served);
    reader.request(READ, 0, 16384);
    let (_, bytes) = reader.reply(16384);
    assert_eq!(bytes[..8192], [0; 8192]);
    assert_eq!(bytes[8192..12288], [2; 4096]);
    others_are_served(&served);
}

#[test]
fn a_hundred_idle_clients_disturb_nobody() {
    let served = Served::raw(MIB);
    let silent: Vec<_> = (0..50).map(|_| served.connect()).collect();
    let attached: Vec<_> = (0..50).map(|_| Client::attached(&served)).collect();
    others_are_served(&served);
    drop(silent);
    for mut client in attached {
        client.request(READ, 0, 512);
        client.reply(512);
    }
}

#[test]
fn a_client_that_does_not_read_is_not_served_without_end() {
    let served = Served::raw(64 * MIB);
    let mut deaf = Client::attached(&served);
    let ask = request(READ, 0, 1 << 20);
    // The server takes requests for 32 MiB and what the sockets buffer, then nothing more.
    deaf.0.set_nonblocking(true).unwrap();
    let mut taken = 0;
    let mut stuck = 0;
    while stuck < 20 {
        others_are_served(&served);
        match deaf.0.write(&ask) {
            Ok(n) => {
                (taken, stuck) = (taken + n, 0);
                assert!(
                    taken < 100_000 * ask.len(),
                    "the server takes requests for ever"
                );
            }
            Err(_) => stuck += 1,
        }
    }
    // It has not been forgotten: all that was asked for comes when it reads.
    deaf.0.set_nonblocking(false).unwrap();
    for _ in 0..taken / ask.len() {
        assert_eq!(deaf.reply(1 << 20).0, 0);
    }
}

#[test]
fn a_removed_export_sends_its_clients_away_and_others_stay() {
    let served = Served::raw(MIB);
    let mut client = Client::attached(&served);
    client.request(READ, 0, 512);
    client.reply(512);
    let refused =
        served.on_thread(|_, server| server.remove("disk", false).unwrap_err().to_string());
    assert!(refused.contains("in use"), "{refused}");
    served.on_thread(|_, server| server.remove("disk", true).unwrap());
    client.expect_closed();
    let mut late = Client::greeted(&served);
    late.option(EXPORT_NAME, b"disk");
    late.expect_closed();
}

#[test]
fn stopping_does_not_wait_for_a_client_that_never_reads() {
    let served = Served::raw(64 * MIB);
    let mut deaf = Client::attached(&served);
    for _ in 0..16 {
        deaf.request(READ, 0, 1 << 20);
    }
    let idle = Client::attached(&served);
    let socket = served.path("nbd.sock");
    let directory = served.stop();
    assert!(!std::path::Path::new(&socket).exists());
    idle.expect_closed();
    drop((deaf, directory));
}
