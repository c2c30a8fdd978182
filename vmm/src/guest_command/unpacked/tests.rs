use std::{fs, io::Write};

use super::*;

/// Something that compresses, and no longer fits into the buffers of those who unpack it.
fn module() -> Vec<u8> {
    (0..300_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect()
}

#[test]
fn modules_come_out_however_they_are_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let module = module();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&module).unwrap();
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&module).unwrap();
    for (name, bytes) in [
        ("a-b.ko", module.clone()),
        ("a-b.ko.gz", gz.finish().unwrap()),
        ("a-b.ko.xz", xz.finish().unwrap()),
        (
            "a-b.ko.zst",
            zstd::encode_all(module.as_slice(), 1).unwrap(),
        ),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, &bytes).unwrap();
        assert!(read(&path).unwrap() == module, "{name}");
        assert_eq!(super::name(&path), Path::new("a-b.ko"));
        if name != "a-b.ko" {
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            assert!(read(&path).is_err(), "{name}, cut off");
            fs::write(&path, b"something else").unwrap();
            assert!(read(&path).is_err(), "{name}, something else");
        }
    }
}
