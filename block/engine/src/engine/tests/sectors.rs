//! Disks whose guests count in sectors of 4,096 bytes.

use super::*;
use crate::api::BlockResize;

fn open(bench: &Bench, path: &Path) -> strata_storage::error::Result<Disk> {
    bench.engine.open_disk(DiskSpec {
        path: path.to_owned(),
        image: ImageOptions {
            format: Some(Format::Raw),
            ..Default::default()
        },
        disk: DiskOptions {
            id: "virtio0".to_owned(),
            logical_block_size: Some(4096),
            ..Default::default()
        },
    })
}

#[test]
fn what_is_not_whole_sectors_is_refused() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, vec![1; 8192]).unwrap();
    let disk = open(&bench, &path).unwrap();
    let info = disk.info();
    assert_eq!((info.block_size, info.physical_block_size), (4096, 4096));
    assert_eq!(info.discard_granularity % 4096, 0);
    for (offset, len) in [(512, 4096), (0, 512), (4096, 1024), (2048, 2048)] {
        let data = SgList::zeroed(len);
        let result = bench.run(&disk, Op::Read, offset, len as u64, data);
        assert!(matches!(result, Err(IoError::OutOfRange)), "{offset} {len}");
        let result = bench.run(&disk, Op::Discard, offset, len as u64, SgList::empty());
        assert!(matches!(result, Err(IoError::OutOfRange)), "{offset} {len}");
    }
    bench.write(&disk, 4096, vec![2; 4096]).unwrap();
    let resize = |size| {
        let node_name = None;
        let device = Some("virtio0".to_owned());
        bench.command(Cmd::BlockResize(BlockResize {
            device,
            node_name,
            size,
        }))
    };
    let error = resize(8192 + 512).unwrap_err();
    assert_eq!(
        error.desc,
        "The new size must be a multiple of 4096, the disk's logical block size"
    );
    resize(12288).unwrap();
    assert_eq!(disk.info().size, 12288);
}

#[test]
fn an_image_must_be_whole_sectors_too() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, vec![1; 8192 + 512]).unwrap();
    let error = open(&bench, &path).err().unwrap().to_string();
    assert!(
        error.ends_with("is of 8704 bytes, which is no multiple of logical-block-size=4096"),
        "{error}"
    );
}
