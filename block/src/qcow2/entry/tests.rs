use super::*;

const GEOMETRY: Geometry = Geometry {
    version: 3,
    cluster_bits: 16,
    refcount_order: 4,
};

#[test]
fn l2_entries_round_trip() {
    let host = HostCluster(5);
    let data = encode_data(host, &GEOMETRY);
    assert_eq!(data, 0x8000_0000_0005_0000);
    assert_eq!(
        decode_l2(data, &GEOMETRY),
        Ok(Mapping::Data { host, copied: true })
    );
    let kept = encode_zero(Some(host), &GEOMETRY);
    assert_eq!(
        decode_l2(kept, &GEOMETRY),
        Ok(Mapping::Zero {
            host: Some((host, true))
        })
    );
    assert_eq!(
        decode_l2(encode_zero(None, &GEOMETRY), &GEOMETRY),
        Ok(Mapping::Zero { host: None })
    );
    assert_eq!(decode_l2(0, &GEOMETRY), Ok(Mapping::Unallocated));
}

#[test]
fn reserved_bits_and_misaligned_offsets_are_refused() {
    assert!(decode_l2(0x50002, &GEOMETRY).is_err());
    assert!(decode_l2(1 << 56 | 0x50000, &GEOMETRY).is_err());
    assert!(decode_l2(0x50200, &GEOMETRY).is_err());
    assert!(decode_l1(0x50200, &GEOMETRY).is_err());
    assert!(decode_l1(0x50001, &GEOMETRY).is_err());
    let v2 = Geometry {
        version: 2,
        ..GEOMETRY
    };
    assert!(decode_l2(ZERO, &v2).is_err());
}

#[test]
fn compressed_entries_are_cut_by_the_cluster_size() {
    // 64 KiB clusters: x = 54.
    let raw = COMPRESSED | 2 << 54 | 0x12345;
    assert_eq!(
        decode_l2(raw, &GEOMETRY),
        Ok(Mapping::Compressed {
            offset: 0x12345,
            len: 3 * 512 - 0x145
        })
    );
    // 512-byte clusters: x = 61, one bit for sectors.
    let small = Geometry {
        cluster_bits: 9,
        ..GEOMETRY
    };
    let raw = COMPRESSED | 1 << 61 | 0x400;
    assert_eq!(
        decode_l2(raw, &small),
        Ok(Mapping::Compressed {
            offset: 0x400,
            len: 1024
        })
    );
}
