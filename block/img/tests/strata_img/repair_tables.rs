//! `check -r all` where the refcount table or the table of internal snapshots cannot be used.

use crate::{Directory, same_output::assert_same, text};

/// Where header fields lie.
const REFCOUNT_TABLE: usize = 48;
const REFCOUNT_TABLE_CLUSTERS: usize = 56;
const SNAPSHOTS: usize = 60;
const SNAPSHOT_TABLE: usize = 64;

/// An image with data and two internal snapshots, of which the first keeps something.
fn image() -> Directory {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "1M"]);
    directory.qemu_io("a", &["write -P 1 0 128k"]);
    directory.qemu(&["snapshot", "-c", "one", "a"]);
    directory.qemu_io("a", &["write -P 2 64k 128k"]);
    directory.qemu(&["snapshot", "-c", "two", "a"]);
    directory
}

/// Exit code and standard error of a check.
fn check(directory: &Directory, program: &str, repair: &[&str]) -> (Option<i32>, String) {
    let output = directory.run(
        program,
        &[&["check", "-f", "qcow2"], repair, &["a"]].concat(),
    );
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    (output.status.code(), said)
}

/// Repairs the image; it is sound then for us and for QEMU, and the disk shows what it did. Returns
/// what was said.
fn repaired(directory: &Directory) -> String {
    let (code, said) = check(directory, "strata-img", &[]);
    if code != Some(2) {
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("check -r all") && said.lines().count() == 1,
            "{said}"
        );
    }
    let refused = directory.run("strata-img", &["resize", "-f", "qcow2", "a", "2M"]);
    let refused = (refused.status.code(), text(&refused.stderr));
    let (code, said) = check(directory, "strata-img", &["-r", "all"]);
    assert_eq!(code, Some(0), "{said}");
    for program in ["qemu-img", "strata-img"] {
        let (code, said) = check(directory, program, &[]);
        assert_eq!(code, Some(0), "{program}: {said}");
    }
    shows(
        directory,
        &[
            "read -P 1 0 64k",
            "read -P 2 64k 128k",
            "read -P 0 192k 832k",
        ],
    );
    directory.ok("strata-img", &["resize", "-q", "-f", "qcow2", "a", "2M"]);
    assert_eq!(check(directory, "qemu-img", &[]).0, Some(0));
    // Where it is no damage to whoever writes, it is only reported.
    if refused.0 != Some(0) {
        assert!(refused.1.contains("check -r all"), "{}", refused.1);
    }
    said
}

fn shows(directory: &Directory, reads: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    args.extend(reads.iter().flat_map(|read| ["-c", read]));
    args.push("a");
    let output = directory.run("qemu-io", &args);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains("verification failed"), "{said}");
}

/// The names in the table of snapshots, and that each can be gone back to.
fn snapshots(directory: &Directory) -> Vec<String> {
    let list = directory.qemu(&["snapshot", "-l", "a"]);
    let lines = list.lines().skip(2);
    let names: Vec<_> = lines
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
        .collect();
    for name in &names {
        directory.qemu(&["snapshot", "-a", name, "a"]);
        match &name[..] {
            "one" => shows(directory, &["read -P 1 0 128k"]),
            _ => shows(directory, &["read -P 1 0 64k", "read -P 2 64k 128k"]),
        }
    }
    names
}

#[test]
fn a_refcount_table_is_made_where_there_is_none() {
    let damages: [(usize, &[u8], &str); 5] = [
        (REFCOUNT_TABLE_CLUSTERS, &[0; 4], "has no refcount table"),
        (REFCOUNT_TABLE_CLUSTERS, &[0, 0, 4, 0], "is too large"),
        (
            REFCOUNT_TABLE,
            &[0, 0, 1, 0, 0, 0, 0, 0],
            "outside the file",
        ),
        (REFCOUNT_TABLE + 6, &[2], "is not cluster-aligned"),
        (REFCOUNT_TABLE, &[0; 8], "overlaps the header"),
    ];
    for (at, bytes, why) in damages {
        let directory = image();
        directory.poke("a", at, bytes);
        let said = repaired(&directory);
        assert!(
            said.contains(&format!("ERROR the {}", why.trim_start_matches("has ")))
                || said.contains(why),
            "{said}"
        );
        assert!(said.contains("Rebuilding refcount structure"), "{said}");
        assert_eq!(snapshots(&directory), ["one", "two"]);
    }
    // Giving back leaks alone would not do.
    let directory = image();
    directory.poke("a", REFCOUNT_TABLE_CLUSTERS, &[0; 4]);
    let before = std::fs::read(directory.path("a")).unwrap();
    let (code, said) = check(&directory, "strata-img", &["-r", "leaks"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(before == std::fs::read(directory.path("a")).unwrap());
}

/// Replaces the table of snapshots, in place, by what `change` makes of its entries.
fn change_table(directory: &Directory, change: impl Fn(usize, &mut Vec<u8>, &mut Vec<u8>)) {
    let table = directory.peek("a", SNAPSHOT_TABLE) as usize;
    let bytes = std::fs::read(directory.path("a")).unwrap();
    let be = |at: usize, len: usize| {
        let bytes = &bytes[at..at + len];
        bytes.iter().fold(0, |n, &byte| n << 8 | usize::from(byte))
    };
    let (mut at, mut new) = (table, Vec::new());
    for index in 0..be(SNAPSHOTS, 4) {
        let extra_end = at + 40 + be(at + 36, 4);
        let end = extra_end + be(at + 12, 2) + be(at + 14, 2);
        let mut fixed = bytes[at..at + 40].to_vec();
        let mut extra = bytes[at + 40..extra_end].to_vec();
        change(index, &mut fixed, &mut extra);
        fixed[36..].copy_from_slice(&(extra.len() as u32).to_be_bytes());
        new.extend([&fixed[..], &extra, &bytes[extra_end..end]].concat());
        new.resize(new.len().next_multiple_of(8), 0);
        at = end.next_multiple_of(8);
    }
    new.resize(new.len().max(at - table), 0);
    // The file may end with the old table.
    let mut bytes = bytes;
    bytes.resize(bytes.len().max(table + new.len()), 0);
    std::fs::write(directory.path("a"), &bytes).unwrap();
    directory.poke("a", table, &new);
}

/// How many errors a repair found and put right.
fn fixed(said: &str) -> (&str, &str) {
    let number = |what: &str| {
        let line = said.lines().find(|line| line.ends_with(what));
        line.unwrap_or_else(|| panic!("{said}"))
            .split_whitespace()
            .next()
            .unwrap()
    };
    (number("leaked clusters"), number("corruptions"))
}

#[test]
fn old_entries_are_completed_and_long_ones_cut() {
    for (len, what) in [
        (0, "Repairing snapshot table entry 1 is incomplete"),
        (8, "Repairing snapshot table entry 0 is incomplete"),
        (
            1100,
            "Discarding too much extra metadata in snapshot table entry 1 (1100 > 1024)",
        ),
    ] {
        let directory = image();
        change_table(&directory, |_, _, extra| extra.resize(len, 0));
        std::fs::copy(directory.path("a"), directory.path("b")).unwrap();
        let theirs = directory.run("qemu-img", &["check", "-f", "qcow2", "-r", "all", "b"]);
        let said = repaired(&directory);
        assert!(said.contains(what), "{said}");
        assert_eq!(fixed(&text(&theirs.stdout)), fixed(&said));
        let list = |name| directory.qemu(&["snapshot", "-l", name]);
        let (ours, theirs) = (list("a"), list("b"));
        assert_eq!(ours, theirs.replace(": b", ": a"));
        assert_eq!(snapshots(&directory), ["one", "two"]);
    }
}

#[test]
fn what_is_reported_is_put_right_with_all_only() {
    let directory = image();
    change_table(&directory, |_, _, extra| extra.clear());
    let before = std::fs::read(directory.path("a")).unwrap();
    for repair in [&[][..], &["-r", "leaks"]] {
        let (code, said) = check(&directory, "strata-img", repair);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("ERROR snapshot table entry 0 is incomplete"),
            "{said}"
        );
        assert!(before == std::fs::read(directory.path("a")).unwrap());
    }
}

/// A change of an image.
type Damage = Box<dyn Fn(&Directory)>;

#[test]
fn snapshots_that_lead_nowhere_are_dropped() {
    let l1 = |bytes: [u8; 8]| {
        move |directory: &Directory| {
            change_table(directory, |index, fixed, _| {
                if index == 0 {
                    fixed[..8].copy_from_slice(&bytes);
                }
            });
        }
    };
    let header =
        |at: usize, bytes: Vec<u8>| move |directory: &Directory| directory.poke("a", at, &bytes);
    let word = |n: u64| n.to_be_bytes();
    let damages: [(Damage, &str, &[&str]); 8] = [
        (
            Box::new(l1(word(0x123))),
            "Discarding snapshot table entry 0, whose L1 table at 0x123 is not valid",
            &["two"],
        ),
        (
            Box::new(l1(word(1 << 40))),
            "Discarding snapshot table entry 0",
            &["two"],
        ),
        (
            Box::new(header(SNAPSHOT_TABLE, word(1 << 40).to_vec())),
            "Discarding 2 overhanging snapshots",
            &[],
        ),
        (
            Box::new(header(SNAPSHOT_TABLE, word(8).to_vec())),
            "Discarding 2 overhanging snapshots",
            &[],
        ),
        // More than there can be; behind the second one the table ends with the file.
        (
            Box::new(header(SNAPSHOTS, vec![0, 1, 0, 3])),
            "Discarding 3 overhanging snapshots (there can be 65536)",
            &["one", "two"],
        ),
        (
            Box::new(header(SNAPSHOTS, vec![0, 0, 0, 3])),
            "Discarding 1 overhanging snapshots (snapshot table is too big)",
            &["one", "two"],
        ),
        (
            Box::new(|directory: &Directory| {
                let table = directory.peek("a", SNAPSHOT_TABLE) as usize;
                directory.poke("a", table, &[0xff; 100]);
            }),
            "Discarding 2 overhanging snapshots (snapshot table is too big)",
            &[],
        ),
        (
            Box::new(|directory: &Directory| {
                let table = directory.peek("a", SNAPSHOT_TABLE) as usize;
                let first = 40 + 24 + 4;
                directory.poke(
                    "a",
                    table + usize::next_multiple_of(first, 8) + 36,
                    &[0xff; 4],
                );
            }),
            "Discarding 1 overhanging snapshots (snapshot table is too big)",
            &["one"],
        ),
    ];
    for (damage, what, left) in damages {
        let directory = image();
        damage(&directory);
        let said = repaired(&directory);
        assert!(said.contains(what), "{said}");
        assert_eq!(snapshots(&directory), left, "{what}");
    }
}

/// What `info` and a command that writes say of the image.
fn refused(directory: &Directory) -> [String; 2] {
    let info: &[&str] = &["info", "a"];
    [info, &["resize", "-f", "qcow2", "a", "2M"]].map(|command| {
        let output = directory.run("strata-img", command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        text(&output.stderr)
    })
}

/// Extra data as long as all of an entry may be, which leads behind the end of the file: the
/// snapshot loses its name, and nothing else.
#[test]
fn extra_data_that_hides_what_follows_is_cut() {
    let directory = image();
    let first = 40 + 24 + 4_usize;
    let second = directory.peek("a", SNAPSHOT_TABLE) as usize + first.next_multiple_of(8);
    directory.poke("a", second + 36, &[0, 1, 0, 0]);
    for said in refused(&directory) {
        let what = "too much extra metadata in snapshot table entry 1";
        assert!(
            said.contains(what) && said.contains("check -r all"),
            "{said}"
        );
    }
    std::fs::copy(directory.path("a"), directory.path("b")).unwrap();
    directory.run(
        "qemu-img",
        &["check", "-q", "-f", "qcow2", "-r", "all", "b"],
    );
    let said = repaired(&directory);
    let what = "Discarding too much extra metadata in snapshot table entry 1 (65536 > 1024)";
    assert!(said.contains(what), "{said}");
    let list = |name| directory.qemu(&["snapshot", "-l", name]);
    assert_eq!(list("a").lines().count(), 4);
    assert_eq!(list("a"), list("b"));
}

/// More than 64 MiB: QEMU opens no such image.
#[test]
fn a_table_that_is_too_big_is_cut() {
    const COUNT: usize = 508;
    let directory = image();
    let table = 1 << 20;
    let mut fixed = [0; 40];
    fixed[12..16].fill(0xff);
    fixed[36..].copy_from_slice(&1024_u32.to_be_bytes());
    let len = usize::next_multiple_of(40 + 1024 + 2 * 65535, 8);
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path("a"));
    let file = file.unwrap();
    file.set_len((table + COUNT * len) as u64).unwrap();
    for n in 0..COUNT {
        std::os::unix::fs::FileExt::write_all_at(&file, &fixed, (table + n * len) as u64).unwrap();
    }
    directory.poke("a", SNAPSHOT_TABLE, &(table as u64).to_be_bytes());
    directory.poke("a", SNAPSHOTS, &(COUNT as u32).to_be_bytes());
    for said in refused(&directory) {
        let what = "snapshot table is too big";
        assert!(
            said.contains(what) && said.contains("check -r all"),
            "{said}"
        );
    }
    std::fs::copy(directory.path("a"), directory.path("b")).unwrap();
    directory.run(
        "qemu-img",
        &["check", "-q", "-f", "qcow2", "-r", "all", "b"],
    );
    let (code, said) = check(&directory, "strata-img", &["-r", "all"]);
    assert_eq!(code, Some(0), "{said}");
    let what = "Discarding 1 overhanging snapshots (snapshot table is too big)";
    assert!(said.contains(what), "{said}");
    assert_eq!(check(&directory, "qemu-img", &[]).0, Some(0));
    let count = |name| directory.peek(name, SNAPSHOTS) >> 32;
    assert_eq!(count("a"), COUNT as u64 - 1);
    assert_eq!(count("a"), count("b"));
    assert_same(&directory, &["snapshot", "-l", "a"]);
}

#[test]
fn snapshots_without_a_table_are_named() {
    // Offset and number of entries: not aligned, too many.
    for (at, bytes) in [(6, [2]), (8, [0x10])] {
        let directory = image();
        let table = directory.peek("a", SNAPSHOT_TABLE) as usize;
        directory.poke("a", table + at, &bytes);
        let (theirs, ours) = ["qemu-img", "strata-img"]
            .map(|program| check(&directory, program, &[]))
            .into();
        let line = |said: &str| {
            let line = said.lines().find(|line| line.starts_with("ERROR snapshot"));
            line.map(str::to_owned)
        };
        assert!(line(&theirs.1).is_some(), "{theirs:?}");
        assert_eq!(line(&theirs.1), line(&ours.1));
    }
}

#[test]
fn refcounts_that_are_too_narrow_become_wider_first() {
    let directory = Directory::new();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "refcount_bits=1",
        "a",
        "1M",
    ];
    directory.qemu(&create);
    directory.qemu_io("a", &["write -P 1 0 64k"]);
    // A second entry for the same cluster.
    let l1 = directory.peek("a", 40) as usize;
    let l2 = (directory.peek("a", l1) & !(1 << 63)) as usize;
    let entry = directory.peek("a", l2);
    directory.poke("a", l2 + 8, &entry.to_be_bytes());
    let advice = "amend -o refcount_bits=16";
    for repair in [&[][..], &["-r", "all"]] {
        let (code, said) = check(&directory, "strata-img", repair);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(advice), "{said}");
    }
    directory.ok(
        "strata-img",
        &["amend", "-f", "qcow2", "-o", "refcount_bits=16", "a"],
    );
    let (code, said) = check(&directory, "strata-img", &["-r", "all"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(advice), "{said}");
    assert_eq!(check(&directory, "qemu-img", &[]).0, Some(0));
    shows(&directory, &["read -P 1 0 128k", "read -P 0 128k 896k"]);
}
