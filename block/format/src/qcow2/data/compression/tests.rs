use super::Compression;

#[test]
fn bad_streams_are_errors() {
    for compression in [Compression::Deflate, Compression::Zstd] {
        for packed in [
            &[][..],
            &[0xff; 512],
            &[0; 512],
            b"neither of the two formats",
        ] {
            compression.unpack(packed, 4096).unwrap_err();
        }
    }
}
