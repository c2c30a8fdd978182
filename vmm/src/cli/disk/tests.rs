use std::time::Duration;

use strata_block::engine::{Limit, Limits, ThrottleLimits};

use super::*;

fn parse(text: &str) -> Result<DiskOption, String> {
    super::parse(text.as_ref())
}

#[test]
fn every_key_is_understood() {
    let text = "file=/a/b.img,format=qcow2,if=ide,media=disk,id=d0,node-name=n0,readonly=on,snapshot=on,cache=unsafe,\
                aio=io_uring,discard=unmap,detect-zeroes=on,serial=S 1,backing-format=raw,\
                backing-folders=/base:/more,logical-block-size=512,physical-block-size=4096,\
                wwn=0x5000c50015ea71ac,rotational=on,reconnect-delay=7,bootindex=3,rerror=stop,\
                werror=ignore,throttling.bps-read=7,throttling.bps-read-max=8,\
                throttling.bps-read-max-length=9,throttling.iops-total=3,\
                throttling.iops-size=4096,throttling.group=g";
    let expected = DiskOption {
        file: "/a/b.img".into(),
        format: Some(Format::Qcow2),
        backing_format: Some(Format::Raw),
        backing_folders: Some(vec!["/base".into(), "/more".into()]),
        interface: Interface::Ide,
        media: Media::Disk,
        logical_block_size: Some(512),
        physical_block_size: Some(4096),
        wwn: Some(0x5000_c500_15ea_71ac),
        rotational: Some(true),
        id: Some("d0".into()),
        node_name: Some("n0".into()),
        read_only: true,
        snapshot: Some(true),
        cache: Cache::Unsafe,
        aio: Aio::IoUring,
        discard: true,
        detect_zeroes: DetectZeroes::On,
        serial: "S 1".into(),
        reconnect_delay: Some(Duration::from_secs(7)),
        boot_index: Some(3),
        rerror: Some(OnRequestError::Stop),
        werror: Some(OnRequestError::Ignore),
        throttling: Throttling {
            limits: ThrottleLimits {
                bytes: Limits {
                    read: Limit {
                        average: 7,
                        burst: 8,
                        burst_seconds: 9,
                    },
                    ..Limits::default()
                },
                requests: Limits {
                    total: Limit {
                        average: 3,
                        ..Limit::default()
                    },
                    ..Limits::default()
                },
                request_size: 4096,
            },
            group: Some("g".to_owned()),
        },
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn only_the_file_is_needed() {
    let disk = parse("file=x").unwrap();
    assert_eq!(disk.interface, Interface::Virtio);
    assert_eq!((disk.format, disk.id.clone()), (None, None));
    let errors = disk.errors();
    assert_eq!(errors.on_read, OnRequestError::Report);
    assert_eq!(errors.on_write, OnRequestError::Enospc);
    assert!(parse("format=raw").unwrap_err().contains("file=PATH"));
}

#[test]
fn doubled_commas_belong_to_the_value() {
    let disk = parse("file=a,,b,,,,c=d,serial=,,").unwrap();
    assert_eq!(disk.file, PathBuf::from("a,b,,c=d"));
    assert_eq!(disk.serial, ",");
}

#[test]
fn mistakes_are_named() {
    for (text, wanted) in [
        (
            "file=a,size=1",
            "unknown key 'size'; known keys: file, format",
        ),
        ("file=a,b", "'b' is not key=value"),
        ("file=a,file=b", "'file' is given twice"),
        ("file=a,", "'' is not key=value"),
        ("file=a,if=scsi", "expected virtio, ide, none"),
        ("file=a,readonly=yes", "expected on, off"),
        (
            "file=a,aio=native",
            "aio=native: expected threads, io_uring",
        ),
        ("file=a,cache=off", "expected writeback, none, writethrough"),
        ("file=a,iothread=t", "not supported yet"),
        ("file=a,rerror=enospc", "expected report, ignore, stop"),
        (
            "file=a,werror=pause",
            "werror=pause: expected report, ignore, enospc, stop",
        ),
        (
            "file=a,throttling.bps=1",
            "unknown key 'throttling.bps'; known keys: throttling.bps-total",
        ),
        (
            "file=a,throttling.iops-total=10M",
            "throttling.iops-total=10M: expected a number",
        ),
        (
            "file=a,throttling.bps-total=1,throttling.bps-read=1",
            "throttling: bps/iops/max total values and read/write values cannot be used",
        ),
        (
            "file=a,throttling.bps-total-max=1",
            "bps_max/iops_max require corresponding bps/iops values",
        ),
        ("file=a,throttling.group=g", "a limit is missing"),
        ("file=a,id=0x", "a name is a letter"),
        ("file=a,media=dvd", "expected disk, cdrom"),
        ("file=a,logical-block-size=1024", "expected 512, 4096"),
        ("file=a,if=ide,logical-block-size=4096", "use if=virtio"),
        ("file=a,physical-block-size=5000", "a power of two from 512"),
        ("file=a,physical-block-size=256", "a power of two from 512"),
        (
            "file=a,physical-block-size=512,logical-block-size=4096",
            "physical-block-size=512 is less than logical-block-size=4096",
        ),
        ("file=a,wwn=1", "wwn= is for if=ide"),
        ("file=a,if=ide,wwn=0", "expected a number of 64 bits"),
        (
            "file=a,if=ide,wwn=0xfffffffffffffffff",
            "a number of 64 bits",
        ),
        ("file=a,rotational=on", "rotational= is for if=ide"),
        ("file=a,if=ide,rotational=1", "expected on, off"),
        (
            "file=a,if=ide,media=cdrom,rotational=on",
            "not for media=cdrom",
        ),
        ("file=a,media=cdrom", "add if=ide"),
        ("file=a,if=none,media=cdrom", "add if=ide"),
        ("file=a,id=", "a name is a letter"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn cd_drives_are_read_only_and_have_names_of_their_own() {
    let mut numbering = Numbering::default();
    let disk = parse("file=x,if=ide").unwrap();
    let cdrom = parse("file=x.iso,media=cdrom,if=ide").unwrap();
    assert_eq!((cdrom.media, cdrom.read_only), (Media::Cdrom, true));
    let names = [&disk, &cdrom, &cdrom].map(|disk| numbering.place(disk).id);
    assert_eq!(names, ["ide0-hd0", "ide0-cd1", "ide1-cd0"]);
}

#[test]
fn default_names_count_by_interface() {
    let mut numbering = Numbering::default();
    let mut names = Vec::new();
    for interface in ["virtio", "ide", "ide", "ide", "virtio", "none"] {
        let disk = parse(&format!("file=x,if={interface}")).unwrap();
        names.push(numbering.place(&disk).id);
    }
    let named = parse("file=x,id=mine").unwrap();
    let place = numbering.place(&named);
    assert_eq!((place.index, place.id.as_str()), (2, "mine"));
    assert_eq!(
        names,
        [
            "virtio0", "ide0-hd0", "ide0-hd1", "ide1-hd0", "virtio1", "none0"
        ]
    );
}

#[test]
fn names_of_files_may_be_no_text() {
    let text = OsStr::from_bytes(b"file=/a\xff,,b,backing-folders=/c\xfe:/d,format=raw");
    let disk = super::parse(text).unwrap();
    assert_eq!(disk.file.as_os_str().as_bytes(), b"/a\xff,b");
    let directories = disk.backing_folders.unwrap();
    assert_eq!(directories[0].as_os_str().as_bytes(), b"/c\xfe");
    assert_eq!((directories.len(), disk.format), (2, Some(Format::Raw)));
    let error = super::parse(OsStr::from_bytes(b"file=a,id=\xff")).unwrap_err();
    assert_eq!(error, "id= is not valid UTF-8 text");
}

#[test]
fn a_cd_drive_may_have_no_disc() {
    let drive = parse("if=ide,media=cdrom,id=cd0,bootindex=1").unwrap();
    assert!(drive.is_empty() && drive.read_only);
    for (text, why) in [
        ("if=ide", "file=PATH is missing"),
        ("if=ide,media=disk", "file=PATH is missing"),
        ("media=cdrom", "media=cdrom is an IDE drive: add if=ide"),
        (
            "if=ide,media=cdrom,format=raw",
            "format= is about a file: file=PATH is missing",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), why, "{text}");
    }
}
