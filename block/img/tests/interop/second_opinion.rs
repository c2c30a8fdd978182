//! The `imago` library, which shares no code with QEMU, reads and writes the same images.

use std::path::Path;

use imago::{
    FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate, file::File, qcow2::Qcow2,
};

use crate::{
    matrix::{Case, cases},
    support::*,
};

/// What it cannot open.
fn is_known_to_imago(case: &Case) -> bool {
    !case.extended_l2 && case.compressed != Some("zstd")
}

fn open(path: &Path, write: bool) -> FormatAccess<File> {
    let gate = PermissiveImplicitOpenGate::default();
    let image = Qcow2::<File>::builder_path(path).write(write).open(gate);
    FormatAccess::new(image.unwrap())
}

fn content(path: &Path) -> Vec<u8> {
    let image = open(path, false);
    let mut bytes = vec![0; image.size() as usize];
    image.read(&mut bytes[..], 0).unwrap();
    bytes
}

#[test]
fn imago_reads_what_we_write_and_we_what_it_writes() {
    let mut tried = 0;
    let known = cases().into_iter().filter(is_known_to_imago);
    for (n, case) in known.enumerate().filter(|(n, _)| n % 3 == 0) {
        println!("{n}: {case:?}");
        let directory = Directory::new();
        // It takes relative names from the working directory.
        let names = format!("{}/", directory.path("").display());
        directory.create("strata-img", &case, &names);
        let seed = n as u64;
        let written = with_image(&directory, async move |node| {
            let size = node.size();
            let model = read(node, 0, size).await;
            scribble(node, &case, model, seed).await
        });
        let path = directory.path(IMAGE);
        assert!(
            content(&path) == written,
            "imago reads other bytes than we wrote"
        );
        directory.check_data(&case, &written);
        let theirs = write(&path, written);
        directory.check();
        let ours = with_image(&directory, async move |node| {
            let size = node.size();
            read(node, 0, size).await
        });
        assert!(ours == theirs, "we read other bytes than imago wrote");
        directory.check_data(&case, &theirs);
        tried += 1;
    }
    assert!(tried > 10);
}

/// Writes and zeroes as a guest would; returns what the disk shows then.
fn write(path: &Path, mut model: Vec<u8>) -> Vec<u8> {
    let image = open(path, true);
    let len = model.len() / 3;
    for (offset, byte) in [(512, 0xa1), (len, 0xa2), (2 * len / 512 * 512, 0xa3)] {
        let offset = offset / 512 * 512;
        let data = vec![byte; len / 4 / 512 * 512];
        image.write(&data[..], offset as u64).unwrap();
        model[offset..offset + data.len()].fill(byte);
    }
    image.sync().unwrap();
    model
}
