//! The parts of an image lie on each other in one direction (`qcow2.rs`). Fields are private, and
//! a part holds those below it only; this looks at what else it could name.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the bottom up.
const PARTS: [&str; 7] = [
    "layout", "file", "space", "tables", "order", "data", "admin",
];

/// The source files of a part, without tests.
fn sources(part: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/qcow2");
    let mut found = vec![root.join(part).with_extension("rs")];
    let mut directories = vec![root.join(part)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Whether code names the module `part`, as `part::`, or the whole image.
fn names(code: &str, part: &str) -> bool {
    let path = format!("{part}::");
    let mut places = code.match_indices(&path).map(|(at, _)| at);
    places.any(|at| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn no_part_names_one_that_lies_above_it() {
    for (n, part) in PARTS.iter().enumerate() {
        let above = &PARTS[n + 1..];
        for source in sources(part) {
            let text = fs::read_to_string(&source).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n");
            for other in above {
                assert!(!names(&code, other), "{} names {other}", source.display());
            }
            let whole = *part != "admin" && code.contains("Qcow2");
            assert!(!whole, "{} names the whole image", source.display());
        }
    }
}

#[test]
fn names_are_found_where_they_stand_alone() {
    assert!(names("use crate::{order::Order};", "order"));
    assert!(names("super::order::flush()", "order"));
    assert!(!names("lock_order::LockOrder", "order"));
    assert!(!names("self.order.flush()", "order"));
}
