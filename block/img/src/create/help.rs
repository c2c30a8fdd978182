//! What `-o help` says.

use std::path::Path;

use strata_graph::Format;
use strata_storage::is_nbd_uri;

/// Options of formats, with what they are for in the words of `qemu-img`.
const OPTIONS: [(&str, &[Format], &str); 13] = [
    (
        "backing_file=<str>",
        &[Format::Qcow2, Format::Qed],
        "File name of a base image",
    ),
    (
        "backing_fmt=<str>",
        &[Format::Qcow2, Format::Qed],
        "Image format of the base image",
    ),
    (
        "cluster_size=<size>",
        &[Format::Qcow2],
        "qcow2 cluster size",
    ),
    (
        "cluster_size=<size>",
        &[Format::Qed],
        "Cluster size (in bytes)",
    ),
    (
        "compat=<str>",
        &[Format::Qcow2],
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    (
        "compression_type=<str>",
        &[Format::Qcow2],
        "Compression method used for image cluster compression",
    ),
    (
        "data_file=<str>",
        &[Format::Qcow2],
        "File name of an external data file",
    ),
    (
        "data_file_raw=<bool (on/off)>",
        &[Format::Qcow2],
        "The external data file must stay valid as a raw image",
    ),
    (
        "extended_l2=<bool (on/off)>",
        &[Format::Qcow2],
        "Extended L2 tables",
    ),
    (
        "lazy_refcounts=<bool (on/off)>",
        &[Format::Qcow2],
        "Postpone refcount updates",
    ),
    (
        "preallocation=<str>",
        &[Format::Qcow2],
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    (
        "refcount_bits=<num>",
        &[Format::Qcow2],
        "Width of a reference count entry in bits",
    ),
    (
        "size=<size>",
        &[Format::Raw, Format::Qcow2, Format::Qed],
        "Virtual disk size",
    ),
];

/// Options of files, for images that are made in one.
const OF_FILES: [(&str, &[Format], &str); 3] = [
    (
        "extent_size_hint=<size>",
        &[Format::Raw, Format::Qcow2, Format::Qed],
        "Extent size hint for the image file, 0 to disable",
    ),
    (
        "nocow=<bool (on/off)>",
        &[Format::Raw, Format::Qcow2, Format::Qed],
        "Turn off copy-on-write (valid only on btrfs)",
    ),
    (
        "preallocation=<str>",
        &[Format::Raw],
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
];

/// Options of qcow2 that can be changed later.
const AMENDABLE: [&str; 8] = [
    "backing_file",
    "backing_fmt",
    "compat",
    "data_file",
    "data_file_raw",
    "lazy_refcounts",
    "refcount_bits",
    "size",
];

/// The options of images of `format` that can be changed later; `None` if there are none.
pub fn amend_text(format: Format) -> Option<String> {
    if format != Format::Qcow2 {
        return None;
    }
    let mut text = format!("Amend options for '{format}':\n");
    for (option, formats, what) in OPTIONS {
        let (name, _) = option.split_once('=')?;
        if formats.contains(&format) && AMENDABLE.contains(&name) {
            text += &line(option, what);
        }
    }
    Some(text)
}

fn line(option: &str, what: &str) -> String {
    format!("  {option:<22} - {what}\n")
}

/// The options that images of `format` are made with; those of files, too, where one is named.
pub fn text(format: Format, target: Option<&Path>) -> String {
    let of_files = target
        .filter(|target| !is_nbd_uri(target))
        .map(|_| OF_FILES);
    let mut known: Vec<_> = OPTIONS
        .into_iter()
        .chain(of_files.into_iter().flatten())
        .collect();
    known.retain(|(_, formats, _)| formats.contains(&format));
    known.sort_by_key(|(option, ..)| *option);
    let mut text = match target {
        None => format!("Supported {format} options:\n"),
        Some(_) => "Supported options:\n".to_owned(),
    };
    for (option, _, what) in known {
        text += &line(option, what);
    }
    if target.is_none() {
        text += "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n";
    }
    text
}
