//! Made and written by QEMU's tools, read and written by us, checked and read by them.

use crate::{
    matrix::{Case, cases},
    support::*,
};

/// An image with all that the case asks for.
fn make(case: &Case, seed: u64) -> Folder {
    let folder = Folder::new();
    folder.make_base(case);
    let size = case.size().to_string();
    let mut options = case.options();
    if let Some(kind) = case.compressed {
        // All of it, also what comes from the backing file, is compressed.
        if case.version > 2 {
            options += &format!(",compression_type={kind}");
        }
        folder.run("qemu-img", &["create", "-f", "raw", "full.raw", &size]);
        let commands = ["write -P 77 0 700k", "write -P 78 1M 100k"];
        let args = [
            "-f",
            "raw",
            "-c",
            commands[0],
            "-c",
            commands[1],
            "full.raw",
        ];
        folder.run("qemu-io", &args);
        let mut args = vec!["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
        if case.backing {
            args.extend(["-B", "base.raw", "-F", "raw"]);
        }
        args.extend(["full.raw", IMAGE]);
        folder.run("qemu-img", &args);
    } else {
        let mut args = vec!["create", "-f", "qcow2", "-o", &options];
        if case.backing {
            args.extend(["-b", "base.raw", "-F", "raw"]);
        }
        args.extend([IMAGE, &size]);
        folder.run("qemu-img", &args);
    }
    let mut random = Random(seed);
    folder.qemu_io(&qemu_commands(case, &mut random));
    if case.bitmap {
        folder.run("qemu-img", &["bitmap", "--add", IMAGE, "bits"]);
    }
    if case.snapshot {
        folder.run("qemu-img", &["snapshot", "-c", "one", IMAGE]);
    }
    folder.qemu_io(&qemu_commands(case, &mut random));
    folder
}

fn run(part: usize) {
    for (n, case) in cases()
        .into_iter()
        .enumerate()
        .filter(|(n, _)| n % 2 == part)
    {
        println!("{n}: {case:?}");
        let seed = n as u64;
        let folder = make(&case, seed);
        we_go_on(&folder, &case, seed + 1000);
        // And they go on with what we have left.
        folder.qemu_io(&qemu_commands(&case, &mut Random(seed + 2000)));
        folder.check();
    }
}

#[test]
fn half_of_the_matrix() {
    run(0);
}

#[test]
fn the_other_half() {
    run(1);
}
