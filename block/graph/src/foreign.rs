//! Formats that are known by their first bytes only: what has one of them is not taken for a raw
//! disk unless somebody says so.

use strata_storage::{
    Storage,
    error::{Error, Result},
};

/// Bytes at the start of a file that distinguish formats.
const HEAD: usize = 512;

/// Where which bytes mean which format.
const MAGICS: [(usize, &[u8], &str); 11] = [
    // Of either version.
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
];

/// Refuses a file whose format has to be guessed if it has a format that is not supported. A raw
/// disk into which its guest has written such an image, or which it has encrypted, looks the same:
/// where the user says that it is raw, it is.
///
/// # Errors
/// That; the host's error.
pub(super) async fn refuse(file: &Storage) -> Result<()> {
    let head = file.read_vec(0, HEAD).await?;
    let found = MAGICS
        .iter()
        .find(|(at, magic, _)| head[*at..].starts_with(magic));
    let why = match found {
        None => return Ok(()),
        Some((.., "LUKS")) => {
            "is a LUKS container, and encrypted images are not supported: make an image that is not \
             encrypted of it with 'qemu-img convert'; if the guest has encrypted its own disk, say that \
             the format is raw"
                .to_owned()
        }
        Some((.., format)) => format!(
            "looks like a {format} image, and that format is not supported: make a qcow2 image of it \
             with 'qemu-img convert -O qcow2'; if it is a raw disk all the same, say that the format is \
             raw"
        ),
    };
    Err(Error::Image {
        file: file.path().to_owned(),
        why,
    })
}
