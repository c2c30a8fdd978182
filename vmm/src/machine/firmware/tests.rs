use super::*;

fn candidate(path: &str, boot_index: Option<u32>, bootable: bool) -> Candidate {
    Candidate {
        path: path.to_owned(),
        boot_index,
        bootable,
    }
}

#[test]
fn wishes_come_first_then_what_can_be_booted() {
    let order = BootOrder(vec![
        candidate("/data", None, false),
        candidate("/second", Some(2), false),
        candidate("/boot", None, true),
        candidate("/first", Some(1), true),
        candidate("/more", None, true),
    ])
    .sorted();
    assert_eq!(
        order.file(false),
        b"/first\n/second\n/boot\n/more\n/data\0".to_vec()
    );
    let with_kernel = order.file(true);
    assert!(with_kernel.starts_with(b"/rom@genroms/strata-kernel.rom\n/first\n"));
    assert!(order.leads_somewhere());
    let data = BootOrder(vec![candidate("/data", Some(0), false)]);
    assert!(!data.leads_somewhere());
}

#[test]
fn a_boot_index_is_for_one_disk() {
    let twice = |indices: &[Option<u32>]| {
        let disks = indices.iter().map(|&index| candidate("/disk", index, true));
        BootOrder(disks.collect()).sorted().index_given_twice()
    };
    assert_eq!(twice(&[Some(2), None, Some(1), None]), None);
    assert_eq!(twice(&[Some(2), Some(1), None, Some(2)]), Some(2));
    assert_eq!(twice(&[Some(1), Some(3), Some(2), Some(3)]), Some(3));
    assert_eq!(twice(&[]), None);
}

#[test]
fn disks_are_found_where_they_are_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, len: usize, marks: &[(usize, &[u8])]| {
        let mut bytes = vec![0; len];
        for &(at, mark) in marks {
            bytes[at..at + mark.len()].copy_from_slice(mark);
        }
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let record = (0x8800, BOOT_RECORD_START);
    let files = [
        (make("empty", 1 << 20, &[]), Interface::Ide),
        (make("tiny", 512, &[]), Interface::Virtio),
        (
            make("none", 1024, &[(510, &BOOT_SIGNATURE)]),
            Interface::None,
        ),
        (make("iso", 1 << 20, &[record]), Interface::Ide),
        (
            make("mbr", 1024, &[(510, &BOOT_SIGNATURE)]),
            Interface::Virtio,
        ),
        (make("cut", 0x8810, &[(0x8800, b"\0CD001")]), Interface::Ide),
    ];
    let options = files.map(|(file, interface)| DiskOption {
        file,
        interface,
        format: Some(strata_block::engine::Format::Raw),
        ..Default::default()
    });
    let temporary = crate::cli::temporary::TemporaryArgs::default();
    let engine = Engine::new(|_| {}).unwrap();
    let mut numbering = Numbering::default();
    for option in &options {
        let place = numbering.place(option);
        engine
            .open_disk(disks::spec(option, &place, &temporary))
            .unwrap();
    }
    let order = BootOrder::of(&engine, &options);
    let file = String::from_utf8(order.file(false)).unwrap();
    assert_eq!(
        file.trim_end_matches('\0').lines().collect::<Vec<_>>(),
        [
            "/pci@i0cf8/ide@1,1/drive@0/disk@1",
            "/pci@i0cf8/scsi@3/disk@0,0",
            "/pci@i0cf8/ide@1,1/drive@0/disk@0",
            "/pci@i0cf8/scsi@2/disk@0,0",
            "/pci@i0cf8/ide@1,1/drive@1/disk@0",
        ]
    );
}

#[test]
fn the_memory_map_has_all_memory_and_kvm_s_pages() {
    let map = e820(5 << 30);
    let entries: Vec<_> = map
        .chunks(20)
        .map(|entry| {
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            (number(0), number(8), entry[16])
        })
        .collect();
    assert_eq!(
        entries,
        [
            (0, 3 << 30, 1),
            (4 << 30, 2 << 30, 1),
            (0xfeff_c000, 0x4000, 2)
        ]
    );
}
