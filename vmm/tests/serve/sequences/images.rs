//! The images of a sequence, before and after: made and looked at by QEMU's program.

use std::{fs, path::Path};

use super::{Random, first_difference};
use crate::process::{Serve, client, qemu_img};

/// Makes the image of a disk, with another one below it or not.
pub fn create(directory: &Path, id: &str, random: &Random) {
    let path = |name: &str| directory.join(name).display().to_string();
    let cluster = random.pick(&["4k", "16k", "64k"]);
    let options = format!("cluster_size={cluster}");
    let size = ((2 << 20) + random.below(4096) * 512).to_string();
    let base = format!("{id}.base");
    if random.one_in(2) {
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &options,
            &path(id),
            &size,
        ]);
        return;
    }
    let format = *random.pick(&["qcow2", "raw"]);
    qemu_img(&["create", "-q", "-f", format, &path(&base), &size]);
    let fill = format!("write -q -P 7 {} 300k", random.below(1 << 20) & !511);
    client("qemu-io", &["-f", format, "-c", &fill, &path(&base)]);
    let args = ["create", "-q", "-f", "qcow2", "-o", &options];
    qemu_img(&[&args[..], &["-F", format, "-b", &base, &path(id)]].concat());
}

/// Makes an overlay by hand, which names `below`.
pub fn overlay(path: &str, (below, format): (&str, &str), size: u64) {
    let args = [
        "create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", below,
    ];
    qemu_img(&[&args[..], &[path, &size.to_string()]].concat());
}

/// Every image of the chain is right, and it shows `expected`.
pub fn check_chain(serve: &Serve, top: &str, expected: &[u8]) {
    let listed = client("qemu-img", &["info", "--backing-chain", top]);
    let value = |line: &str, name: &str| {
        let rest = line.strip_prefix(name)?;
        Some(rest.trim().to_owned())
    };
    let files = listed.lines().filter_map(|line| value(line, "image:"));
    let formats = listed
        .lines()
        .filter_map(|line| value(line, "file format:"));
    for (file, format) in files.zip(formats) {
        if format != "raw" {
            qemu_img(&["check", "-q", "-f", &format, &file]);
        }
    }
    check_content(serve, &[top], expected);
}

/// Layers of the chain.
pub fn depth(top: &str) -> usize {
    let listed = client("qemu-img", &["info", "--backing-chain", top]);
    listed.matches("image: ").count()
}

/// What a snapshot within an image keeps.
pub fn check_snapshot(serve: &Serve, file: &str, name: &str, expected: &[u8]) {
    check_content(serve, &["-l", name, file], expected);
}

fn check_content(serve: &Serve, image: &[&str], expected: &[u8]) {
    let raw = serve.path("raw");
    qemu_img(&[&["convert", "-O", "raw"], image, &[&raw]].concat());
    let found = fs::read(&raw).unwrap();
    fs::remove_file(&raw).unwrap();
    // A snapshot of a disk that was shorter shows as much as the disk has now.
    assert_eq!(first_difference(&found, expected), None, "{image:?}");
    if image.len() == 1 {
        assert_eq!(found.len(), expected.len(), "{image:?}");
    }
}
