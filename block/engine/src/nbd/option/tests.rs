use proptest::prelude::*;

use super::{ContextRequest, InfoRequest, export_name};

#[test]
fn names_and_lists_are_parsed() {
    assert_eq!(
        InfoRequest::parse(b"\0\0\0\x04disk\0\x02\0\x01\0\x03"),
        Ok(InfoRequest {
            name: "disk",
            wanted: vec![1, 3]
        })
    );
    assert_eq!(
        ContextRequest::parse(b"\0\0\0\0\0\0\0\x02\0\0\0\x02a:\0\0\0\x03b:c"),
        Ok(ContextRequest {
            name: "",
            queries: vec!["a:", "b:c"]
        })
    );
}

#[test]
fn what_does_not_fit_its_lengths_is_malformed() {
    for data in [
        &b""[..],
        b"\0\0\0",
        b"\0\0\0\x05disk\0\0",
        b"\0\0\0\x04disk\0",
        b"\0\0\0\x04disk\0\x01",
        b"\0\0\0\x04disk\0\0rest",
        b"\xff\xff\xff\xffdisk\0\0",
        b"\0\0\0\x04di\0k\0\0",
        b"\0\0\0\x02\xc3\x28\0\0",
    ] {
        assert!(InfoRequest::parse(data).is_err(), "{data:?}");
    }
    for data in [
        &b"\0\0\0\0\0\0\0\x01"[..],
        b"\0\0\0\0\xff\xff\xff\xff\0\0\0\x02a:",
        b"\0\0\0\0\0\0\0\x01\0\0\0\x03a:",
        b"\0\0\0\0\0\0\0\x01\0\0\0\x01a",
        b"\0\0\0\0\0\0\0\0rest",
    ] {
        assert!(ContextRequest::parse(data).is_err(), "{data:?}");
    }
    assert!(export_name(&[b'a'; 4096]).is_ok());
    assert!(export_name(&[b'a'; 4097]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = InfoRequest::parse(&data) {
            prop_assert_eq!(data.len(), 6 + request.name.len() + 2 * request.wanted.len());
        }
        if let Ok(request) = ContextRequest::parse(&data) {
            let queries: usize = request.queries.iter().map(|query| 4 + query.len()).sum();
            prop_assert_eq!(data.len(), 8 + request.name.len() + queries);
        }
    }
}
