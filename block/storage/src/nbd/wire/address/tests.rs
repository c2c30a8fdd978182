use super::Address;

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp {
        host: host.to_owned(),
        port,
    }
}

#[test]
fn addresses_are_parsed_and_shown_alike() {
    for (text, address) in [
        ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
        ("unix:a:b", Address::Unix("a:b".into())),
        ("tcp:localhost:10809", tcp("localhost", 10809)),
        ("tcp:127.0.0.1:0", tcp("127.0.0.1", 0)),
        ("tcp:[::1]:10809", tcp("::1", 10809)),
    ] {
        assert_eq!(text.parse(), Ok(address.clone()));
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn what_is_not_an_address_is_refused() {
    for text in [
        "",
        "unix",
        "unix:",
        "unix:a\0b",
        "tcp:",
        "tcp:host",
        "tcp::10809",
        "tcp:host:",
        "tcp:host:65536",
        "tcp:::1:10809",
        "tcp:[]:1",
        "udp:host:1",
        "/run/a.sock",
    ] {
        let result: Result<Address, _> = text.parse();
        assert!(result.is_err(), "{text}: {result:?}");
    }
}
