use super::*;

#[test]
fn the_first_ide_drive_is_found_by_its_place() {
    let place = |ata: u32, target: u32| {
        let host = ata - 1;
        format!(
            "../devices/pci0000:00/0000:00:01.1/ata{ata}/host{host}/target{host}:0:{target}/\
             {host}:0:{target}:0/block/sda"
        )
    };
    let is_first = |place: &str| is_first_ide_drive(Path::new(place));
    assert!(is_first(&place(1, 0)));
    assert!(!is_first(&place(1, 1)));
    assert!(!is_first(&place(2, 0)));
    assert!(!is_first(
        "../devices/pci0000:00/0000:00:02.0/virtio0/block/vda"
    ));
    assert!(!is_first("../devices/virtual/block/loop0"));
}
