use super::*;

#[test]
fn a_speed_is_bytes_unless_it_has_a_unit() {
    for (text, bytes) in [
        ("1000", 1000),
        ("1000B", 1000),
        ("64k", 64 << 10),
        ("50M", 50 << 20),
        ("1.5G", 3 << 29),
        ("0", 0),
    ] {
        assert_eq!(parse_speed(text), Ok(bytes), "{text}");
    }
    for text in ["", "fast", "-1", "50M/s", "1.5"] {
        assert!(parse_speed(text).is_err(), "{text}");
    }
}

#[test]
fn a_socket_may_be_written_as_the_option_has_it() {
    assert_eq!(parse_socket("unix:/tmp/qmp"), Ok("/tmp/qmp".into()));
    assert_eq!(parse_socket("qmp"), Ok("qmp".into()));
    assert!(parse_socket("unix:").is_err());
}

#[test]
fn a_socket_may_be_called_as_a_verb() {
    let mark = |line: &str| {
        let args = line.split(' ').map(OsString::from).collect();
        mark_socket(args).join(&OsString::from(" "))
    };
    for (line, marked) in [
        ("strata ctl qmp status", "strata ctl unix:qmp status"),
        (
            "strata ctl hmp --json jobs",
            "strata ctl unix:hmp --json jobs",
        ),
        ("strata ctl qmp qmp {}", "strata ctl unix:qmp qmp {}"),
        ("strata ctl ./qmp status", "strata ctl ./qmp status"),
        ("strata ctl status", "strata ctl status"),
        ("strata ctl merge virtio0", "strata ctl merge virtio0"),
        ("strata serve qmp status", "strata serve qmp status"),
    ] {
        assert_eq!(mark(line), *marked);
    }
}
