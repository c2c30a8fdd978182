use strata_storage::nbd::wire::proto::Errno;

use super::{Content, Question, Style};
use crate::nbd::{context::Context, request::Refusal};

fn question(style: Style) -> Question {
    Question {
        style,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
    }
}

/// Flags, type and payload of the chunks in `bytes`.
fn chunks(style: Style, mut bytes: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let be = |from: usize, to: usize| {
            bytes[from..to]
                .iter()
                .fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        assert_eq!(be(8, 16), 0x0102_0304_0506_0708);
        let (header, len) = match style {
            Style::Extended => {
                assert_eq!((be(0, 4), be(16, 24)), (0x6e8a_278c, 0x1000));
                (32, be(24, 32))
            }
            _ => {
                assert_eq!(be(0, 4), 0x668e_33ef);
                (20, be(16, 20))
            }
        };
        let end = header + len as usize;
        found.push((
            be(4, 6) as u16,
            be(6, 8) as u16,
            bytes[header..end].to_vec(),
        ));
        bytes = &bytes[end..];
    }
    found
}

const STYLES: [Style; 2] = [Style::Structured, Style::Extended];

#[test]
fn simple_replies_have_sixteen_bytes_and_the_data() {
    let question = question(Style::Simple);
    let head = |error: u8| {
        let start = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, error];
        [&start[..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat()
    };
    assert_eq!(question.done().concat(), head(0));
    let (errno, why) = (Errno::NoSpace, "no room");
    assert_eq!(question.failed(Refusal { errno, why }).concat(), head(28));
    let parts = vec![Content::Data(vec![9; 3])];
    assert_eq!(
        question.content(parts).concat(),
        [head(0), vec![9; 3]].concat()
    );
}

#[test]
fn chunks_end_with_the_flag_that_says_so() {
    for style in STYLES {
        let question = question(style);
        let all = |pieces: Vec<Vec<u8>>| chunks(style, &pieces.concat());
        assert_eq!(all(question.done()), [(1, 0, vec![])]);
        assert_eq!(all(question.content(vec![])), [(1, 0, vec![])]);
        let (errno, why) = (Errno::Inval, "no");
        assert_eq!(
            all(question.failed(Refusal { errno, why })),
            [(1, 0x8001, vec![0, 0, 0, 22, 0, 2, b'n', b'o'])]
        );
        let parts = vec![
            Content::Hole(0x200),
            Content::Data(vec![5; 2]),
            Content::Hole(1),
        ];
        assert_eq!(
            all(question.content(parts)),
            [
                (0, 2, vec![0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]),
                (0, 1, vec![0, 0, 0, 0, 0, 0, 0x12, 0, 5, 5]),
                (1, 2, vec![0, 0, 0, 0, 0, 0, 0x12, 2, 0, 0, 0, 1]),
            ]
        );
    }
}

#[test]
fn block_status_has_one_chunk_for_each_context() {
    let answers = [
        (Context::Allocation, vec![(512, 0), (1024, 3)]),
        (Context::Depth, vec![(1536, 2)]),
    ];
    let short = question(Style::Structured).status(&answers).concat();
    assert_eq!(
        chunks(Style::Structured, &short),
        [
            (
                0,
                5,
                vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 3]
            ),
            (1, 5, vec![0, 0, 0, 1, 0, 0, 6, 0, 0, 0, 0, 2]),
        ]
    );
    let long = question(Style::Extended).status(&answers[1..]).concat();
    let mut payload = vec![0, 0, 0, 1, 0, 0, 0, 1];
    payload.extend(1536u64.to_be_bytes());
    payload.extend(2u64.to_be_bytes());
    assert_eq!(chunks(Style::Extended, &long), [(1, 6, payload)]);
}
