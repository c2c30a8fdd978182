//! `check -r`: what it says, and what it leaves behind.

use serde_json::Value;

use crate::{Directory, text};

/// One change of an image's tables: which table, which entry, and the new value; or the bits of the
/// old one that flip.
enum Damage {
    Refcount(usize, u16),
    L2(usize, u64),
    FlipL2(usize, u64),
    FlipL1(u64),
    Block(usize, u64),
    Feature(u8),
}

use Damage::{Block, Feature, FlipL1, FlipL2, L2, Refcount};

const COPIED: u64 = 1 << 63;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Damage {
    fn apply(&self, directory: &Directory, name: &str) {
        let (l1, table) = (directory.peek(name, 40), directory.peek(name, 48) as usize);
        let l2 = (directory.peek(name, l1 as usize) & OFFSET) as usize;
        let flip = |at: usize, bits: u64| {
            let new = directory.peek(name, at) ^ bits;
            directory.poke(name, at, &new.to_be_bytes());
        };
        match *self {
            Refcount(cluster, count) => {
                let at = directory.peek(name, table) as usize + cluster * 2;
                directory.poke(name, at, &count.to_be_bytes());
            }
            L2(index, entry) => directory.poke(name, l2 + index * 8, &entry.to_be_bytes()),
            FlipL2(index, bits) => flip(l2 + index * 8, bits),
            FlipL1(bits) => flip(l1 as usize, bits),
            Block(index, entry) => directory.poke(name, table + index * 8, &entry.to_be_bytes()),
            Feature(bits) => directory.poke(name, 79, &[bits]),
        }
    }
}

/// Exit code and JSON of a check; without what depends on where new tables go.
fn check(
    directory: &Directory,
    program: &str,
    repair: &[&str],
    name: &str,
) -> (Option<i32>, Value) {
    let args = [&["check", "--output=json", "-f", "qcow2"], repair, &[name]].concat();
    let output = directory.run(program, &args);
    let mut json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("filename");
        fields.remove("image-end-offset");
    }
    (output.status.code(), json)
}

fn damaged() -> Directory {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a", "4M"]);
    directory.qemu_io("a", &["write -P 5 0 1M"]);
    directory
}

#[test]
fn the_same_is_repaired_as_by_qemu() {
    // With the default options cluster 4 is the L2 table, and the data lies in 5 to 20.
    let damages: [&[Damage]; 14] = [
        &[Refcount(6, 3)],
        &[Refcount(8, 0)],
        &[FlipL2(0, COPIED)],
        &[FlipL1(COPIED)],
        &[L2(3, COPIED | 0xa_0201)],
        &[L2(3, COPIED | 0xa_0200)],
        &[L2(4, COPIED | 0x5_0000)],
        &[L2(4, COPIED | 0x1005_0000)],
        &[L2(4, COPIED | 0x2_0000)],
        &[L2(4, COPIED | 0x5_0002)],
        &[Feature(1)],
        &[Feature(2), Refcount(9, 2)],
        &[Refcount(7, 0), Refcount(8, 4), FlipL2(9, COPIED)],
        &[Refcount(7, 2), FlipL2(9, COPIED)],
    ];
    let directory = damaged();
    let mut repaired = 0;
    for (n, damage) in damages.iter().enumerate() {
        for repair in [&["-r", "leaks"], &["-r", "all"]] {
            for program in ["qemu-img", "strata-img"] {
                std::fs::copy(directory.path("a"), directory.path(program)).unwrap();
                damage.iter().for_each(|d| d.apply(&directory, program));
            }
            let theirs = check(&directory, "qemu-img", repair, "qemu-img");
            let ours = check(&directory, "strata-img", repair, "strata-img");
            assert_eq!(theirs, ours, "case {n} {repair:?}");
            let left = check(&directory, "qemu-img", &[], "strata-img").0;
            if ours.0 != Some(1) {
                assert_eq!(left, ours.0, "case {n} {repair:?}");
            }
            repaired += u32::from(left == Some(0));
        }
    }
    assert!(repaired > 15, "{repaired}");
}

#[test]
fn more_is_repaired_than_by_qemu() {
    let damages = [
        // The flag that no compressed cluster has, a block that lies nowhere, and one that would
        // lie where nobody has ever been.
        (L2(4, COPIED | 1 << 62 | 0x9_0000), 1),
        (Block(0, 0x3_0200), 21),
        (Block(1, 1 << 32), 1),
    ];
    for (damage, fixed) in damages {
        let directory = damaged();
        damage.apply(&directory, "a");
        let (code, report) = check(&directory, "strata-img", &["-r", "all"], "a");
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["corruptions-fixed"], fixed);
        assert_eq!(check(&directory, "qemu-img", &[], "a").0, Some(0));
        assert!(std::fs::metadata(directory.path("a")).unwrap().len() < 2 << 20);
    }
}

#[test]
fn what_is_printed_is_what_qemu_prints() {
    let directory = damaged();
    for program in ["qemu-img", "strata-img"] {
        std::fs::copy(directory.path("a"), directory.path("b")).unwrap();
        Refcount(6, 3).apply(&directory, "b");
        FlipL2(9, COPIED).apply(&directory, "b");
        let output = directory.run(program, &["check", "-f", "qcow2", "-r", "all", "b"]);
        std::fs::write(directory.path(&format!("{program}.out")), output.stdout).unwrap();
        let lines = text(&output.stderr);
        for line in [
            "Leaked cluster 6 refcount=3 reference=1",
            "Repairing cluster 6 refcount=3 reference=1",
            "Repairing OFLAG_COPIED data cluster",
        ] {
            assert!(lines.contains(line), "{program}: {lines}");
        }
    }
    let said = |program| std::fs::read_to_string(directory.path(program)).unwrap();
    assert_eq!(said("qemu-img.out"), said("strata-img.out"));
    let quiet = directory.run(
        "strata-img",
        &["check", "-q", "-f", "qcow2", "-r", "all", "b"],
    );
    assert!(quiet.stdout.is_empty() && quiet.status.success());
}

/// A QED image with 7 clusters of data, the second entry of its L2 table at `entry`.
fn qed() -> (Directory, usize) {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qed", "a", "4M"]);
    let writes = ["-c", "write -P 1 0 300k", "-c", "write -P 2 1M 64k"];
    directory.ok("qemu-io", &[&["-f", "qed"], &writes[..], &["a"]].concat());
    let word = |at: usize| directory.peek("a", at).swap_bytes() as usize;
    let entry = word(word(40)) + 8;
    (directory, entry)
}

fn check_qed(directory: &Directory, program: &str, repair: &[&str]) -> (Option<i32>, Value) {
    let args = [&["check", "--output=json", "-f", "qed"], repair, &["a"]].concat();
    let output = directory.run(program, &args);
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), json)
}

#[test]
fn qed_is_checked_as_by_qemu() {
    let same = |directory: &Directory| {
        let ours = check_qed(directory, "strata-img", &[]);
        assert_eq!(check_qed(directory, "qemu-img", &[]), ours);
        ours.0
    };
    let (directory, entry) = qed();
    assert_eq!(same(&directory), Some(0));
    // Clusters that nothing names, a cluster that is not there, one that is named twice.
    let mut bytes = std::fs::read(directory.path("a")).unwrap();
    bytes.resize(bytes.len() + (128 << 10), 0);
    std::fs::write(directory.path("a"), bytes).unwrap();
    assert_eq!(same(&directory), Some(3));
    let data = directory.peek("a", entry);
    directory.poke("a", entry, &(1u64 << 40).to_le_bytes());
    assert_eq!(same(&directory), Some(2));
    directory.poke(
        "a",
        entry + 8,
        &directory.peek("a", entry - 8).to_be_bytes(),
    );
    assert_eq!(same(&directory), Some(2));
    directory.poke("a", entry, &data.to_be_bytes());
    assert_eq!(same(&directory), Some(2));
    // Twice the same cluster cannot be put right, and nothing is cut off then.
    let before = std::fs::read(directory.path("a")).unwrap();
    assert_eq!(
        check_qed(&directory, "strata-img", &["-r", "all"]).0,
        Some(2)
    );
    assert!(before == std::fs::read(directory.path("a")).unwrap());
}

#[test]
fn qed_is_repaired() {
    let (directory, entry) = qed();
    let bytes = std::fs::read(directory.path("a")).unwrap();
    let mut longer = bytes.clone();
    longer.resize(bytes.len() + (128 << 10), 0);
    // NEED_CHECK.
    longer[16] |= 2;
    std::fs::write(directory.path("a"), longer).unwrap();
    let (code, report) = check_qed(&directory, "strata-img", &["-r", "leaks"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["leaks-fixed"], 2);
    assert!(bytes == std::fs::read(directory.path("a")).unwrap());
    directory.poke("a", entry, &(1u64 << 40).to_le_bytes());
    assert_eq!(
        check_qed(&directory, "strata-img", &["-r", "leaks"]).0,
        Some(2)
    );
    let (code, report) = check_qed(&directory, "strata-img", &["-r", "all"]);
    // The cluster that the entry named lies between others.
    assert_eq!(code, Some(3), "{report}");
    assert_eq!(report["corruptions-fixed"], 1);
    assert_eq!(check_qed(&directory, "qemu-img", &[]).0, Some(3));
    directory.ok(
        "qemu-io",
        &[
            "-f",
            "qed",
            "-c",
            "read -P 0 64k 64k",
            "-c",
            "read -P 1 128k 128k",
            "a",
        ],
    );
}

/// L1 entries behind the disk's end are looked at as the others are.
#[test]
fn qed_is_checked_behind_the_end_of_the_disk() {
    let same = |directory: &Directory| {
        let ours = check_qed(directory, "strata-img", &[]);
        assert_eq!(check_qed(directory, "qemu-img", &[]), ours);
        ours.0
    };
    let l1 = |directory: &Directory| directory.peek("a", 40).swap_bytes() as usize;
    let (directory, _) = qed();
    let at = l1(&directory) + 5 * 8;
    directory.poke("a", at, &(1u64 << 40).to_le_bytes());
    assert_eq!(same(&directory), Some(2));
    let (code, report) = check_qed(&directory, "strata-img", &["-r", "all"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["corruptions-fixed"], 1);
    assert_eq!(same(&directory), Some(0));
    // The table that another entry names, too.
    let table = directory.peek("a", l1(&directory));
    directory.poke("a", at, &table.to_be_bytes());
    assert_eq!(same(&directory), Some(2));
    // One of its own: it is in use.
    let end = std::fs::metadata(directory.path("a")).unwrap().len();
    let mut bytes = std::fs::read(directory.path("a")).unwrap();
    bytes.resize(bytes.len() + (256 << 10), 0);
    std::fs::write(directory.path("a"), bytes).unwrap();
    directory.poke("a", at, &end.to_le_bytes());
    assert_eq!(same(&directory), Some(0));
    // A crash leaves such entries; whoever opens the image then gives their tables back.
    directory.poke("a", 16, &[2]);
    directory.ok("strata-img", &["resize", "-f", "qed", "a", "4M"]);
    assert_eq!(same(&directory), Some(0));
    assert_eq!(std::fs::metadata(directory.path("a")).unwrap().len(), end);
    assert_eq!(directory.peek("a", at), 0);
}
