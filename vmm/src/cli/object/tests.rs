use strata_block::api::TlsCreds;

use super::{ObjectOption, parse};

#[test]
fn credentials() {
    for (more, verify_peer) in [
        ("", true),
        (",endpoint=server", true),
        (",verify-peer=off", false),
    ] {
        let expected = ObjectOption {
            id: "t".into(),
            creds: TlsCreds {
                dir: "/a,b".into(),
                verify_peer,
            },
        };
        let text = format!("tls-creds-x509,id=t,dir=/a,,b{more}");
        assert_eq!(parse(&text), Ok(expected));
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    for (text, expected) in [
        ("", "expected tls-creds-x509"),
        ("secret,id=s", "expected tls-creds-x509"),
        ("tls-creds-x509,dir=/d", "id=ID is missing"),
        ("tls-creds-x509,id=t", "dir=DIR is missing"),
        (
            "tls-creds-x509,id=t,dir=/d,endpoint=client",
            "expected server",
        ),
        ("tls-creds-x509,id=t,dir=/d,passwordid=p", "unknown key"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
