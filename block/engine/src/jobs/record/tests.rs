use proptest::prelude::*;

use super::{Layer, MAGIC, MOST, Record, Shape, State};
use crate::{
    api::{BlockCommit, BlockStream, Cmd},
    jobs::Ending,
};

fn layer(name: &str, inode: u64) -> Layer {
    serde_json::from_value(serde_json::json!({
        "path": format!("/images/{name}"),
        "file": {"file": {"device": 5, "inode": inode}},
        "size": 1 << 20,
        "format": "qcow2",
    }))
    .unwrap()
}

fn record() -> Record {
    Record {
        id: "virtio0".to_owned(),
        shape: Shape::StreamToBase,
        disk: "virtio0".to_owned(),
        speed: 7,
        cmd: Cmd::BlockStream(BlockStream {
            device: "virtio0".to_owned(),
            base: Some("A".to_owned()),
            ..BlockStream::default()
        }),
        layers: vec![layer("B", 1), layer("A", 2)],
        state: State::Working(4096),
    }
}

fn signed(json: &str) -> Vec<u8> {
    let sum = crc32fast::hash(json.as_bytes());
    format!("{MAGIC}{sum:08x}\n{json}").into_bytes()
}

#[test]
fn a_record_says_what_was_recorded() {
    let states = [
        State::Working(0),
        State::Decided(None),
        State::Decided(Some(Ending::TakeOver)),
        State::Concluded {
            error: Some("no \"space\"\n".to_owned()),
            len: 8,
            offset: 4,
        },
    ];
    for state in states {
        let record = Record { state, ..record() };
        let bytes = record.encode().unwrap();
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
}

#[test]
fn no_other_bytes_are_a_record() {
    let bytes = record().encode().unwrap();
    for len in 0..bytes.len() {
        Record::decode(&bytes[..len]).unwrap_err();
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        Record::decode(&bytes).unwrap_err();
    }
    let mut longer = bytes;
    longer.push(b' ');
    Record::decode(&longer).unwrap_err();
    let endless = vec![b' '; usize::try_from(MOST).unwrap() + 1];
    assert_eq!(Record::decode(&endless), Err("it is too long".to_owned()));
}

#[test]
fn what_does_not_go_together_is_not_acted_on() {
    let odd = |record: Record| {
        let bytes = record.encode().unwrap();
        assert_eq!(
            Record::decode(&bytes),
            Err("what it says does not go together".to_owned())
        );
    };
    // A stream that would go down to nothing, where one to a base was asked for.
    odd(Record {
        layers: vec![layer("B", 1)],
        ..record()
    });
    odd(Record {
        shape: Shape::CommitTop,
        ..record()
    });
    odd(Record {
        shape: Shape::Commit,
        cmd: Cmd::BlockCommit(Box::default()),
        ..record()
    });
    odd(Record {
        cmd: Cmd::QueryJobs,
        ..record()
    });
    odd(Record {
        shape: Shape::Stream,
        layers: Vec::new(),
        ..record()
    });
    // Signed, and yet no record.
    for json in ["", "{}", "[]", "7", "{\"id\": 3}"] {
        Record::decode(&signed(json)).unwrap_err();
    }
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    Record::decode(&signed(&nested)).unwrap_err();
    let json = serde_json::to_string(&record()).unwrap();
    Record::decode(&signed(&json)).unwrap();
    let more = json.replacen('{', "{\"more\": 1, ", 1);
    Record::decode(&signed(&more)).unwrap_err();
}

#[test]
fn what_is_decided_of_a_commit_of_the_top_is_that_it_takes_over() {
    let mut commit = Record {
        shape: Shape::CommitTop,
        cmd: Cmd::BlockCommit(Box::new(BlockCommit {
            group: Some("g".to_owned()),
            auto_dismiss: Some(false),
            ..BlockCommit::default()
        })),
        ..record()
    };
    commit.decide();
    assert_eq!(commit.state, State::Decided(Some(Ending::TakeOver)));
    assert_eq!((commit.group(), commit.auto_dismiss()), (Some("g"), false));
    let mut stream = record();
    stream.decide();
    assert_eq!(stream.state, State::Decided(None));
    assert_eq!((stream.group(), stream.auto_dismiss()), (None, true));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>, json: String) {
        prop_assert!(Record::decode(&bytes).is_err());
        prop_assert!(Record::decode(&signed(&json)).is_err());
    }
}
