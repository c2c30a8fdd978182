use std::path::Path;

use super::{TlsPlan, Uri, is_nbd_uri};
use crate::nbd::wire::Address;

fn tcp(host: &str, port: u16) -> Address {
    let host = host.to_owned();
    Address::Tcp { host, port }
}

#[test]
fn uris_name_a_server_and_an_export() {
    for (text, address, export) in [
        ("nbd://host", tcp("host", 10809), ""),
        ("nbd://host/", tcp("host", 10809), ""),
        ("nbd://host:5/a/b", tcp("host", 5), "a/b"),
        ("nbd://[::1]/x", tcp("::1", 10809), "x"),
        ("nbd://[::1]:5/a%20b%3F", tcp("::1", 5), "a b?"),
        (
            "nbd+unix:///x?socket=/run/s",
            Address::Unix("/run/s".into()),
            "x",
        ),
        ("nbd+unix://?socket=s%26t", Address::Unix("s&t".into()), ""),
    ] {
        let export = export.to_owned();
        let tls = None;
        let expected = Uri {
            address,
            export,
            tls,
        };
        assert_eq!(Uri::parse(text), Ok(expected), "{text}");
        assert!(is_nbd_uri(Path::new(text)));
    }
}

#[test]
fn uris_ask_for_tls() {
    for (text, host) in [
        ("nbds://host/x?tls-certificates=/d", "host"),
        ("nbds://host/x?tls-certificates=/d&tls-hostname=n", "n"),
        ("nbds+unix:///x?socket=/s&tls-certificates=/d", "localhost"),
    ] {
        let tls = Uri::parse(text).unwrap().tls.unwrap();
        let dir = "/d".into();
        let host = host.to_owned();
        assert_eq!(tls, TlsPlan { dir, host }, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (text, expected) in [
        ("nbd:host", "no // after"),
        ("nbd://", "no host"),
        ("nbd://:5/x", "no host"),
        ("nbd://host:port/x", "'port' is not a port"),
        ("nbd://host:70000/x", "'70000' is not a port"),
        ("nbd://host/%", "percent-encoded"),
        ("nbd://host/%0", "percent-encoded"),
        ("nbd://host/%zz", "percent-encoded"),
        ("nbd://host/%ff", "percent-encoded"),
        ("nbd://host/%00", "percent-encoded"),
        ("nbd://host/x?socket=/s", "no meaning"),
        ("nbd+unix://host/x?socket=/s", "no host"),
        ("nbd+unix:///x", "?socket=PATH"),
        ("nbd+unix:///x?socket=", "empty"),
        ("nbd+unix:///x?socket=/s&tls=1", "'tls' has no meaning"),
        ("nbd+unix:///x?socket", "not key=value"),
        ("nbd://host/x?tls-certificates=/d", "no meaning"),
        ("nbds://host/x", "?tls-certificates=DIR"),
        ("nbdx://host/x", "'nbdx' is not"),
    ] {
        let error = Uri::parse(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for name in ["nbd", "nbd.qcow2", "./nbd://x", "/nbd://x", "nbdx://host"] {
        assert!(!is_nbd_uri(Path::new(name)), "{name}");
    }
}
