use strata_storage::nbd::wire::Address;

use super::uri;

#[test]
fn uris_are_what_clients_take() {
    let tcp = |host: &str| Address::Tcp {
        host: host.to_owned(),
        port: 10809,
    };
    let unix = Address::Unix("/run/a b&c.sock".into());
    assert_eq!(
        uri(&unix, "x", false),
        "nbd+unix:///x?socket=/run/a%20b%26c.sock"
    );
    assert_eq!(uri(&tcp("host"), "", false), "nbd://host:10809/");
    assert_eq!(uri(&tcp("::1"), "a?b", true), "nbds://[::1]:10809/a%3Fb");
}
