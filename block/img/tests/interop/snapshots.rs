//! Internal snapshots that both sides make, apply and delete in turns, on disks that change their
//! size: what each keeps is what the disk showed, for both.

use std::collections::BTreeMap;

use crate::{
    matrix::{Case, in_one_file},
    support::*,
};

/// Changes of an image.
const STEPS: u64 = 8;

/// An image, and what it has to hold.
struct History<'a> {
    directory: Directory,
    case: &'a Case,
    random: Random,
    shown: Vec<u8>,
    kept: BTreeMap<String, Vec<u8>>,
    made: u32,
}

#[test]
fn both_sides_make_apply_and_delete_them() {
    // One reference more than one bit can tell.
    let cases = in_one_file().into_iter();
    let cases = cases.filter(|case| case.snapshot && case.refcount_bits > 1);
    for (n, case) in cases.step_by(3).enumerate() {
        println!("{n}: {case:?}");
        let directory = Directory::new();
        directory.create("strata-img", &case, "");
        let mut history = History {
            shown: directory.content(None),
            directory,
            case: &case,
            random: Random(n as u64),
            kept: BTreeMap::new(),
            made: 0,
        };
        for step in 0..STEPS {
            history.step(step % 2 == 0);
        }
        history.end();
    }
}

/// Whether what was seen of a snapshot, as long as the disk is now, is what it keeps.
fn is_shown(kept: &[u8], seen: &[u8]) -> bool {
    let len = kept.len().min(seen.len());
    kept[..len] == seen[..len] && seen[len..].iter().all(|byte| *byte == 0)
}

impl History<'_> {
    /// Somebody writes, then changes the snapshots; the other one looks at what has become of it.
    fn step(&mut self, ours: bool) {
        let (program, other) = if ours {
            ("strata-img", "qemu-img")
        } else {
            ("qemu-img", "strata-img")
        };
        self.write(ours);
        let names: Vec<_> = self.kept.keys().cloned().collect();
        let some = |random: &mut Random| names[random.below(names.len() as u64) as usize].clone();
        let what = match self.random.below(7) {
            0 if !names.is_empty() => {
                let name = some(&mut self.random);
                self.directory
                    .run(program, &["snapshot", "-d", &name, IMAGE]);
                self.kept.remove(&name);
                format!("deletes {name}")
            }
            1 | 2 if !names.is_empty() => {
                let name = some(&mut self.random);
                self.directory
                    .run(program, &["snapshot", "-a", &name, IMAGE]);
                self.shown = self.kept[&name].clone();
                format!("applies {name}")
            }
            // Refcounts of two bits tell three references, and applying adds one for a moment.
            3..6 if names.len() + 3 < 1 << self.case.refcount_bits.min(3) => {
                self.made += 1;
                let name = format!("snapshot-{}", self.made);
                self.directory
                    .run(program, &["snapshot", "-c", &name, IMAGE]);
                self.kept.insert(name.clone(), self.shown.clone());
                format!("makes {name}")
            }
            _ if self.case.version > 2 => {
                self.resize(program);
                "resizes".to_owned()
            }
            _ => "writes".to_owned(),
        };
        self.directory.check();
        let seen = self.directory.seen_by(other, None);
        assert!(seen == self.shown, "{program} {what}: {other} reads others");
        if let Some((name, kept)) = self.kept.iter().next() {
            let seen = self.directory.seen_by(other, Some(name));
            assert!(
                is_shown(kept, &seen),
                "{program} {what}: {other} finds another {name}"
            );
        }
    }

    /// Gives the disk another size, at most half as large again as at first: one of whole clusters,
    /// as QEMU shows what the rest of the last one held when the disk grows again.
    fn resize(&mut self, program: &str) {
        let most = self.case.size() * 3 / 2 / self.case.cluster;
        let size = (1 + self.random.below(most)) * self.case.cluster;
        let text = size.to_string();
        let args = ["resize", "-q", "--shrink", "-f", "qcow2", IMAGE, &text];
        self.directory.run(program, &args);
        self.shown.resize(size as usize, 0);
    }

    fn write(&mut self, ours: bool) {
        if ours {
            let (case, seed) = (*self.case, self.random.below(1 << 32));
            let shown = std::mem::take(&mut self.shown);
            self.shown = with_image(&self.directory, async move |node| {
                let size = node.size();
                assert!(read(node, 0, size).await == shown, "we read others");
                scribble(node, &case, shown, seed).await
            });
        } else {
            let size = self.shown.len() as u64;
            let commands = qemu_commands(self.case, size, &mut self.random);
            self.directory.qemu_io(&commands);
            self.shown = self.directory.content(None);
        }
    }

    /// Everybody finds every snapshot; without them, nothing is left of them.
    fn end(self) {
        let directory = &self.directory;
        for (n, (name, kept)) in self.kept.iter().enumerate() {
            for program in ["qemu-img", "strata-img"] {
                let seen = directory.seen_by(program, Some(name));
                assert!(
                    is_shown(kept, &seen),
                    "{program} finds another {name} at the end"
                );
            }
            let program = ["strata-img", "qemu-img"][n % 2];
            directory.run(program, &["snapshot", "-d", name, IMAGE]);
        }
        directory.check();
        assert_eq!(directory.run("qemu-img", &["snapshot", "-l", IMAGE]), "");
        assert!(
            directory.content(None) == self.shown,
            "the disk shows others"
        );
    }
}

/// Both refuse what an image with a data file cannot have, and leave it as it is.
#[test]
fn data_files_have_none() {
    for raw in ["off", "on"] {
        let directory = Directory::new();
        let options = format!("data_file=data.raw,data_file_raw={raw}");
        let args = ["create", "-f", "qcow2", "-o", &options, IMAGE, "1M"];
        directory.run("qemu-img", &args);
        directory.qemu_io(&["write -P 1 0 200k".to_owned()]);
        let before = std::fs::read(directory.path(IMAGE)).unwrap();
        for what in ["-c", "-a", "-d"] {
            for program in ["qemu-img", "strata-img"] {
                let output = directory.output(program, &["snapshot", what, "one", IMAGE]);
                assert_eq!(
                    output.status.code(),
                    Some(1),
                    "{program} {what}: {output:?}"
                );
            }
        }
        assert!(std::fs::read(directory.path(IMAGE)).unwrap() == before);
        directory.check();
    }
}
