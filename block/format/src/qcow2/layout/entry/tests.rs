use super::*;

const GEOMETRY: Geometry = Geometry {
    version: 3,
    cluster_bits: 16,
    extended_l2: false,
    refcount_order: 4,
    external_data: false,
};

const EXTENDED: Geometry = Geometry {
    extended_l2: true,
    ..GEOMETRY
};

/// An entry without a bitmap.
fn raw(descriptor: u64) -> RawEntry {
    extended(descriptor, 0)
}

fn extended(descriptor: u64, bitmap: u64) -> RawEntry {
    RawEntry { descriptor, bitmap }
}

fn decoded(descriptor: u64, geometry: &Geometry) -> Result<Mapping, String> {
    Ok(decode_l2(raw(descriptor), geometry)?.mapping(0))
}

#[test]
fn l2_entries_round_trip() {
    let host = HostCluster(5);
    let own = Some((host, true));
    let mappings = [
        (0, Mapping::Unallocated { host: None }),
        (0x8000_0000_0005_0000, Mapping::Data { host, copied: true }),
        (
            0x5_0000,
            Mapping::Data {
                host,
                copied: false,
            },
        ),
        (0x8000_0000_0005_0001, Mapping::Zero { host: own }),
        (1, Mapping::Zero { host: None }),
    ];
    for (descriptor, mapping) in mappings {
        assert_eq!(decoded(descriptor, &GEOMETRY), Ok(mapping));
        let entry = decode_l2(raw(descriptor), &GEOMETRY).unwrap();
        assert_eq!(encode_l2(entry, &GEOMETRY), raw(descriptor));
    }
}

#[test]
fn reserved_bits_and_misaligned_offsets_are_refused() {
    assert!(decoded(0x50002, &GEOMETRY).is_err());
    assert!(decoded(1 << 56 | 0x50000, &GEOMETRY).is_err());
    assert!(decoded(0x50200, &GEOMETRY).is_err());
    assert!(decode_l1(0x50200, &GEOMETRY).is_err());
    assert!(decode_l1(0x50001, &GEOMETRY).is_err());
    let v2 = Geometry {
        version: 2,
        ..GEOMETRY
    };
    assert!(decoded(ZERO, &v2).is_err());
}

#[test]
fn compressed_entries_are_cut_by_the_cluster_size() {
    // 64 KiB clusters: x = 54.
    let descriptor = COMPRESSED | 2 << 54 | 0x12345;
    let len = 3 * 512 - 0x145;
    let offset = 0x12345;
    let expected = Entry::Compressed { offset, len };
    assert_eq!(decode_l2(raw(descriptor), &GEOMETRY), Ok(expected));
    assert_eq!(encode_l2(expected, &GEOMETRY), raw(descriptor));
    // 512-byte clusters: x = 61, one bit for sectors.
    let small = Geometry {
        cluster_bits: 9,
        ..GEOMETRY
    };
    let descriptor = COMPRESSED | 1 << 61 | 0x400;
    let (offset, len) = (0x400, 1024);
    let expected = Entry::Compressed { offset, len };
    assert_eq!(decode_l2(raw(descriptor), &small), Ok(expected));
}

#[test]
fn subclusters_have_mappings_of_their_own() {
    let host = HostCluster(5);
    let own = Some((host, true));
    // Subclusters 0 and 1 are data, 2 is not here, 3 to 30 are zeros, 31 is data again.
    let bitmap = 0x7fff_fff8_8000_0003;
    let entry = decode_l2(extended(0x8000_0000_0005_0000, bitmap), &EXTENDED).unwrap();
    let runs = [
        (0, 2, Mapping::Data { host, copied: true }),
        (1, 1, Mapping::Data { host, copied: true }),
        (2, 1, Mapping::Unallocated { host: own }),
        (3, 28, Mapping::Zero { host: own }),
        (30, 1, Mapping::Zero { host: own }),
        (31, 1, Mapping::Data { host, copied: true }),
    ];
    for (from, count, mapping) in runs {
        assert_eq!(entry.mapping(from), mapping);
        assert_eq!(entry.alike(from, &EXTENDED), count, "from {from}");
    }
    assert_eq!(Entry::UNALLOCATED.alike(0, &EXTENDED), 32);
    assert_eq!(Entry::UNALLOCATED.alike(0, &GEOMETRY), 1);
    assert_eq!(encode_l2(entry, &EXTENDED).bitmap, bitmap);
    let without = decode_l2(extended(0, 0xffff_0000 << 32), &EXTENDED).unwrap();
    assert_eq!(without.mapping(15), Mapping::Unallocated { host: None });
    assert_eq!(without.mapping(16), Mapping::Zero { host: None });
}

#[test]
fn bitmaps_that_contradict_are_refused() {
    let why = |descriptor, bitmap| decode_l2(extended(descriptor, bitmap), &EXTENDED).unwrap_err();
    assert!(why(0x50000, 1 << 40 | 1 << 8).contains("both allocated and zero"));
    assert!(why(0, 1).contains("no cluster"));
    assert!(why(COMPRESSED | 0x50000, 1 << 32).contains("bitmap"));
    assert!(
        why(0x50001, 0).contains("reserved"),
        "no flag for all of it"
    );
}

#[test]
fn subclusters_change_alone() {
    let (old, new) = (HostCluster(5), HostCluster(6));
    let entry = |host: Option<(HostCluster, bool)>, data, zero| Entry::Plain { host, data, zero };
    let shared = entry(Some((old, false)), 0b0011, 0b1100);
    let own = |data, zero| entry(Some((new, true)), data, zero);
    assert_eq!(
        shared.with_data(new, 0b0110, &EXTENDED),
        own(0b0111, 0b1000)
    );
    let packed = Entry::Compressed { offset: 9, len: 9 };
    assert_eq!(packed.with_data(new, 1, &EXTENDED), own(u32::MAX, 0));
    assert_eq!(packed.with_data(new, 1, &GEOMETRY), own(1, 0));
    assert_eq!(own(0b11, 0).with_zeros(0b110, false), own(1, 0b110));
    assert_eq!(own(0b11, 0).with_zeros(0b111, true), own(0, 0b111));
    assert_eq!(own(0b11, 0).with_zeros(0b111, false), entry(None, 0, 0b111));
    // It belongs to others, too, so nothing can be put there later.
    assert_eq!(shared.with_zeros(0b11, true), entry(None, 0, 0b1111));
    assert_eq!(
        shared.with_zeros(0b10, true),
        entry(Some((old, false)), 1, 0b1110)
    );
}

#[test]
fn masks_are_cut_into_runs() {
    let runs = |mask| runs(mask).collect::<Vec<_>>();
    assert_eq!(runs(0), []);
    assert_eq!(runs(u32::MAX), [(0, 32)]);
    assert_eq!(runs(0b1), [(0, 1)]);
    assert_eq!(runs(0xc000_0016), [(1, 2), (4, 1), (30, 2)]);
}
