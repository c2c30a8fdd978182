//! The line "Formatting ..." that `create` prints.

use std::{collections::BTreeMap, path::Path};

use strata_graph::Format;

/// The options of each format, in the order in which `qemu-img` prints them.
const ORDER: [(Format, &[&str]); 3] = [
    (
        Format::Raw,
        &["size", "nocow", "preallocation", "extent_size_hint"],
    ),
    (
        Format::Qcow2,
        &[
            "encryption",
            "cluster_size",
            "extended_l2",
            "preallocation",
            "compression_type",
            "size",
            "compat",
            "backing_file",
            "backing_fmt",
            "data_file",
            "data_file_raw",
            "lazy_refcounts",
            "refcount_bits",
            "nocow",
            "extent_size_hint",
        ],
    ),
    (
        Format::Qed,
        &[
            "size",
            "backing_file",
            "backing_fmt",
            "cluster_size",
            "nocow",
            "preallocation",
            "extent_size_hint",
        ],
    ),
];

/// Options that are printed although nobody has given them.
const DEFAULTS: [(Format, &str, &str); 6] = [
    (Format::Qcow2, "cluster_size", "65536"),
    (Format::Qcow2, "extended_l2", "off"),
    (Format::Qcow2, "compression_type", "zlib"),
    (Format::Qcow2, "lazy_refcounts", "off"),
    (Format::Qcow2, "refcount_bits", "16"),
    (Format::Qed, "cluster_size", "65536"),
];

/// The line for an image at `path`, whose options were `given` so: numbers in digits, the rest as
/// it was written.
pub fn line(path: &Path, format: Format, given: &BTreeMap<String, String>) -> String {
    let mut line = format!("Formatting '{}', fmt={format}", path.display());
    let order = ORDER.iter().find(|(of, _)| *of == format);
    for name in order.map_or(&[][..], |(_, names)| names) {
        let default = DEFAULTS
            .iter()
            .find(|(of, option, _)| *of == format && option == name);
        let default = default.map(|(_, _, value)| (*value).to_owned());
        if let Some(value) = given.get(*name).cloned().or(default) {
            line += &format!(" {name}={}", value.replace(',', ",,"));
        }
    }
    line + "\n"
}
