use strata_block::{
    api::{BitmapRef, VhostUserSpec},
    engine::ExportSpec,
};
use strata_storage::nbd::wire::Address;

use super::{ExportOption, parse};

#[test]
fn all_keys() {
    let text = "type=nbd,disk=virtio0,addr=tcp:[::1]:10809,name=a,,b,id=e,description=d=d,writable=on,bitmap=b,tls-creds=t";
    let expected = ExportOption::Nbd {
        address: Address::Tcp {
            host: "::1".into(),
            port: 10809,
        },
        tls_creds: Some("t".into()),
        spec: ExportSpec {
            disk: "virtio0".into(),
            id: Some("e".into()),
            name: Some("a,b".into()),
            description: Some("d=d".into()),
            writable: true,
            bitmaps: vec![BitmapRef {
                node: None,
                name: "b".into(),
            }],
        },
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn for_another_machine() {
    let expected = ExportOption::VhostUser {
        id: "virtio0".into(),
        disk: "virtio0".into(),
        spec: VhostUserSpec {
            path: "/s".into(),
            queues: 4,
            writable: true,
        },
    };
    let text = "type=vhost-user-blk,disk=virtio0,addr=unix:/s,num-queues=4,writable=on";
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    for (text, expected) in [
        ("", "'' is not key=value"),
        ("disk=a,addr=unix:/s", "type=nbd is missing"),
        (
            "type=fuse,disk=a,addr=unix:/s",
            "type=fuse: expected nbd, vhost-user-blk",
        ),
        (
            "type=vhost-user-blk,disk=a,addr=tcp:h:1",
            "addr=tcp:h:1: expected unix:PATH",
        ),
        (
            "type=vhost-user-blk,disk=a,addr=unix:/s,num-queues=65",
            "num-queues=65: expected 1 to 64",
        ),
        ("type=nbd,addr=unix:/s", "disk=NAME is missing"),
        (
            "type=nbd,disk=a",
            "addr=unix:PATH or addr=tcp:HOST:PORT is missing",
        ),
        ("type=nbd,disk=a,addr=/s", "'/s' is not an address"),
        (
            "type=nbd,disk=a,addr=unix:/s,writable=yes",
            "writable=yes: expected on, off",
        ),
        (
            "type=nbd,disk=a,addr=unix:/s,disk=b",
            "'disk' is given twice",
        ),
        ("type=nbd,disk=a,addr=unix:/s,size=5", "unknown key 'size'"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
