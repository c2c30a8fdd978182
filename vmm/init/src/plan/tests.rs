use super::*;

#[test]
fn everything_is_read() {
    let bytes = b"module\0/a.ko\0module\0/b.ko\0root\0ide\0built-in\0sd_mod\0file-system\0ext4\0share\0/strata/share/0:/src\0\
        terminal\x0024x80\0environment\0A=b=c\0out\0\0argument\0ls\0argument\0\xff\0";
    let plan = Plan::parse(bytes).unwrap();
    assert_eq!(plan.modules, ["/a.ko", "/b.ko"]);
    assert_eq!(plan.root, Some(RootDisk::Ide));
    assert_eq!(plan.built_in, ["sd_mod"]);
    assert_eq!(plan.file_systems, ["ext4"]);
    assert_eq!(
        plan.shares,
        [("/strata/share/0".to_owned(), "/src".to_owned())]
    );
    assert_eq!(plan.terminal, Some((24, 80)));
    assert_eq!(plan.environment, [("A".into(), "b=c".into())]);
    assert!(plan.out);
    assert_eq!(plan.command, ["ls".into(), OsString::from_vec(vec![0xff])]);
}

#[test]
fn what_makes_no_sense_is_named() {
    for bytes in [
        &b"modul\0x\0"[..],
        b"share\0x\0",
        b"terminal\0x\0",
        b"environment\0A\0",
        b"root\0sda\0",
    ] {
        assert!(Plan::parse(bytes).is_err(), "{bytes:?}");
    }
    assert_eq!(Plan::parse(b""), Ok(Plan::default()));
}
