use super::*;

#[test]
fn exit_ports() {
    let raw = |port| {
        Ok(ExitPortOption {
            port,
            mapping: Mapping::Raw,
        })
    };
    assert_eq!(parse_exit_port("0xf4"), raw(0xf4));
    assert_eq!(parse_exit_port("244"), raw(0xf4));
    assert_eq!(parse_exit_port("0xf4,mapping=raw"), raw(0xf4));
    let qemu = ExitPortOption {
        port: 0x501,
        mapping: Mapping::Qemu,
    };
    assert_eq!(parse_exit_port("0x501,mapping=qemu"), Ok(qemu));
    for text in [
        "",
        "x",
        "0x10000",
        "0xfffd",
        "-1",
        "0xf4,mapping=x",
        "0xf4,y=z",
        "0xf4,mapping",
    ] {
        assert!(parse_exit_port(text).is_err(), "{text}");
    }
}

#[test]
fn codes() {
    assert_eq!(Mapping::Raw.code(16), 16);
    assert_eq!(Mapping::Qemu.code(16), 33);
    assert_eq!(Mapping::Qemu.code(u32::MAX), u32::MAX);
}
