use super::*;

const GIB: u64 = 1 << 30;

fn machine(cpus: u8, below_4g: u64, above_4g: u64) -> Smbios {
    Smbios::build(&Described {
        cpus,
        below_4g,
        above_4g,
    })
}

/// All structures: kind, fixed part, texts.
fn structures(tables: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
    let mut rest = tables;
    let mut found = Vec::new();
    while let [kind, len, ..] = *rest {
        let (fixed, tail) = rest.split_at(len.into());
        let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let texts = tail[..end].split(|&byte| byte == 0);
        let texts = texts.map(|text| String::from_utf8(text.to_vec()).unwrap());
        found.push((kind, fixed.to_vec(), texts.collect()));
        rest = &tail[end + 2..];
    }
    found
}

fn find(smbios: &Smbios, kind: u8) -> (Vec<u8>, Vec<String>) {
    let mut all = structures(&smbios.tables).into_iter();
    let (_, fixed, texts) = all.find(|structure| structure.0 == kind).unwrap();
    (fixed, texts)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn the_anchor_leads_to_the_tables_and_its_sums_are_right() {
    let bytes = machine(2, GIB, 0).at_its_address();
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    assert!(bytes.starts_with(b"_SM_"));
    assert_eq!((sum(&bytes[..31]), sum(&bytes[16..31])), (0, 0));
    let start = u32_at(&bytes, 24) as usize - Smbios::ADDRESS as usize;
    let len = usize::from(u16::from_le_bytes([bytes[22], bytes[23]]));
    assert_eq!(start + len, bytes.len());
    let all = structures(&bytes[start..]);
    assert_eq!(
        all.len(),
        usize::from(u16::from_le_bytes([bytes[28], bytes[29]]))
    );
    assert_eq!(all.last().unwrap().0, kind::END);
    assert!(
        Smbios::ADDRESS as usize + bytes.len() < 0xf_fff0,
        "the reset vector"
    );
}

#[test]
fn structures_are_as_long_as_version_2_8_has_them() {
    let lengths = [
        (kind::BIOS, 0x18),
        (kind::SYSTEM, 0x1b),
        (kind::CHASSIS, 0x15),
        (kind::PROCESSOR, 0x2a),
        (kind::MEMORY_ARRAY, 0x17),
        (kind::MEMORY_DEVICE, 0x28),
        (kind::MEMORY_RANGE, 0x1f),
        (kind::BOOT, 0x0b),
        (kind::END, 4),
    ];
    let smbios = machine(1, GIB, 0);
    for (kind, len) in lengths {
        assert_eq!(find(&smbios, kind).0.len(), len, "type {kind}");
    }
}

#[test]
fn it_is_called_strata() {
    let (fixed, texts) = find(&machine(1, GIB, 0), kind::SYSTEM);
    assert_eq!(fixed[4..7], [1, 2, 3]);
    assert_eq!(texts[..2], ["Strata", "Strata virtual machine"]);
}

#[test]
fn handles_are_unique() {
    let smbios = machine(8, 3 * GIB, GIB);
    let all = structures(&smbios.tables);
    let mut handles: Vec<_> = all
        .iter()
        .map(|(_, fixed, _)| [fixed[2], fixed[3]])
        .collect();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), all.len());
}

#[test]
fn processors_and_memory_are_counted() {
    let smbios = machine(3, 3 * GIB, 2 * GIB);
    let (processor, _) = find(&smbios, kind::PROCESSOR);
    assert_eq!(processor[0x23..0x26], [3; 3]);
    let (array, _) = find(&smbios, kind::MEMORY_ARRAY);
    assert_eq!(u32_at(&array, 7), 5 << 20);
    let (device, _) = find(&smbios, kind::MEMORY_DEVICE);
    assert_eq!(u16::from_le_bytes([device[12], device[13]]), 5 << 10);
    let all = structures(&smbios.tables).into_iter();
    let ranges: Vec<_> = all.filter(|s| s.0 == kind::MEMORY_RANGE).collect();
    let ends = |at: usize| ranges.iter().map(|r| u32_at(&r.1, at)).collect::<Vec<_>>();
    assert_eq!(ends(4), [0, 4 << 20]);
    assert_eq!(ends(8), [(3 << 20) - 1, (6 << 20) - 1]);
}

#[test]
fn what_a_field_cannot_hold_stands_in_the_wider_one() {
    let size = 5000 * GIB;
    let smbios = machine(1, 3 * GIB, size - 3 * GIB);
    let (array, _) = find(&smbios, kind::MEMORY_ARRAY);
    assert_eq!(u32_at(&array, 7), 1 << 31);
    assert_eq!(array[15..], size.to_le_bytes());
    let (device, _) = find(&smbios, kind::MEMORY_DEVICE);
    assert_eq!(device[12..14], [0xff, 0x7f]);
    assert_eq!(u64::from(u32_at(&device, 28)), size >> 20);
    let mut all = structures(&smbios.tables).into_iter();
    let range = all.rfind(|s| s.0 == kind::MEMORY_RANGE).unwrap().1;
    assert_eq!((u32_at(&range, 4), u32_at(&range, 8)), (u32::MAX, u32::MAX));
    assert_eq!(range[15..23], (1u64 << 32).to_le_bytes());
}
