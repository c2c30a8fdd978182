//! Extended headers, which Debian's clients do not know yet.

use crate::{
    hand::{Client, DISC, READ, WRITE},
    served::Served,
};

const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;
const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;
const PAYLOAD_LEN: u16 = 1 << 5;
const SIZE: u64 = 8 << 40;

pub fn send(client: &mut Client, kind: u16, flags: u16, offset: u64, len: u64, payload: &[u8]) {
    client.send(&[
        &0x21e4_1c71_u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &7u64.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
        payload,
    ]);
}

/// Type and payload of a reply of one chunk.
pub fn chunk(client: &mut Client, offset: u64) -> (u16, Vec<u8>) {
    let head = client.get(32);
    assert_eq!(head[..4], 0x6e8a_278c_u32.to_be_bytes());
    assert_eq!(head[4..6], [0, 1]);
    assert_eq!(
        head[8..24],
        [7u64.to_be_bytes(), offset.to_be_bytes()].concat()
    );
    let len = u64::from_be_bytes(head[24..32].try_into().unwrap());
    let kind = u16::from_be_bytes([head[6], head[7]]);
    (kind, client.get(len as usize))
}

fn errno(client: &mut Client, offset: u64) -> u8 {
    let (kind, payload) = chunk(client, offset);
    assert_eq!((kind, &payload[..3]), (0x8001, &[0; 3][..]));
    payload[3]
}

/// Agrees on extended headers and one context, which gets the number `id`, and enters `export`.
pub fn enter(client: &mut Client, export: &str, context: &str, id: u32) {
    client.option(EXTENDED_HEADERS, b"");
    assert_eq!(client.answer().0, 1);
    client.option(STRUCTURED_REPLY, b"");
    assert_eq!(client.answer().0, (1 << 31) + 10);
    let string = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    let one = 1u32.to_be_bytes();
    let request = [string(export), one.to_vec(), string(context)].concat();
    client.option(SET_META_CONTEXT, &request);
    let expected = [&id.to_be_bytes(), context.as_bytes()].concat();
    assert_eq!(client.answer(), (4, expected));
    assert_eq!(client.answer().0, 1);
    client.option(GO, &[string(export), vec![0, 0]].concat());
    while client.answer().0 != 1 {}
}

#[test]
fn extended_headers_carry_lengths_of_64_bits() {
    let served = Served::raw(SIZE);
    let mut client = Client::greeted(&served);
    enter(&mut client, "disk", "base:allocation", 0);

    let offset = SIZE - 512;
    send(&mut client, WRITE, PAYLOAD_LEN, offset, 512, &[5; 512]);
    assert_eq!(chunk(&mut client, offset), (0, vec![]));
    send(&mut client, READ, 0, offset, 512, &[]);
    let data = [offset.to_be_bytes().to_vec(), vec![5; 512]].concat();
    assert_eq!(chunk(&mut client, offset), (1, data));
    send(&mut client, BLOCK_STATUS, 0, 0, SIZE, &[]);
    let (kind, status) = chunk(&mut client, 0);
    assert_eq!((kind, &status[..4]), (6, &[0; 4][..]));
    let hole = u64::from_be_bytes(status[8..16].try_into().unwrap());
    assert!(hole > SIZE - (1 << 20) && status[23] == 3, "{status:?}");
    send(&mut client, WRITE_ZEROES, 0, 0, SIZE, &[]);
    assert_eq!(chunk(&mut client, 0), (0, vec![]));
    send(&mut client, READ, 0, offset, 512, &[]);
    assert_eq!(chunk(&mut client, offset).1[8..], [0; 512]);

    // Errors: a write without a payload, one beyond the end, and a payload that nobody asked for,
    // each passed over.
    send(&mut client, WRITE, 0, 0, 512, &[]);
    assert_eq!(errno(&mut client, 0), 22);
    send(&mut client, WRITE, PAYLOAD_LEN, SIZE, 512, &[5; 512]);
    assert_eq!(errno(&mut client, SIZE), 28);
    send(&mut client, BLOCK_STATUS, PAYLOAD_LEN, 0, 12, &[0; 12]);
    assert_eq!(errno(&mut client, 0), 22);
    send(&mut client, DISC, 0, 0, 0, &[]);
    client.expect_closed();
}
