//! Made and written by QEMU's tools, read and written by us, checked and read by them.

use crate::{
    matrix::{Case, half},
    support::*,
};

/// An image with all that the case asks for.
fn make(case: &Case, seed: u64) -> Directory {
    let directory = Directory::new();
    if case.compressed.is_some() {
        convert_compressed(&directory, case);
    } else {
        directory.create("qemu-img", case, "");
    }
    let mut random = Random(seed);
    directory.qemu_io(&qemu_commands(case, case.size(), &mut random));
    if case.bitmap {
        directory.run("qemu-img", &["bitmap", "--add", IMAGE, "bits"]);
    }
    if case.snapshot {
        directory.run("qemu-img", &["snapshot", "-c", "one", IMAGE]);
    }
    directory.qemu_io(&qemu_commands(case, case.size(), &mut random));
    directory
}

/// An image all of which is compressed, also what comes from the backing file.
fn convert_compressed(directory: &Directory, case: &Case) {
    directory.make_base(case);
    let size = case.size().to_string();
    directory.run("qemu-img", &["create", "-f", "raw", "full.raw", &size]);
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
    directory.run("qemu-io", &args);
    let options = case.options("");
    let mut args = vec!["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options];
    if case.backing {
        args.extend(["-B", "base.raw", "-F", "raw"]);
    }
    args.extend(["full.raw", IMAGE]);
    directory.run("qemu-img", &args);
}

fn both_ways(case: &Case, seed: u64) {
    let directory = make(case, seed);
    we_go_on(&directory, case, seed + 1000);
    // And they go on with what we have left.
    directory.qemu_io(&qemu_commands(case, case.size(), &mut Random(seed + 2000)));
    directory.check();
}

#[test]
fn half_of_the_matrix() {
    half(0, both_ways);
}

#[test]
fn the_other_half() {
    half(1, both_ways);
}
