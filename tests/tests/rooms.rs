//! Which crate may know which, and which modules do not know each other: the order that
//! `docs/ARCHITECTURE.md` draws, read from `Cargo.toml` files and `use` lines.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The crates that have an order, from the bottom up, and which of them each may use. Tests may use
/// the same ones.
const CRATES: [(&str, &[&str]); 11] = [
    ("strata-exec", &[]),
    ("strata-storage", &["strata-exec"]),
    ("strata-format", &["strata-exec", "strata-storage"]),
    (
        "strata-graph",
        &["strata-exec", "strata-storage", "strata-format"],
    ),
    (
        "strata-block",
        &[
            "strata-exec",
            "strata-storage",
            "strata-format",
            "strata-graph",
        ],
    ),
    ("strata-img", STACK),
    ("strata-sim", STACK),
    // Not the graph, not a format: what they need of a disk is the engine's seam.
    (
        "strata-devices",
        &["strata-exec", "strata-storage", "strata-block"],
    ),
    (
        "strata-vmm",
        &[
            "strata-exec",
            "strata-storage",
            "strata-block",
            "strata-devices",
        ],
    ),
    ("strata-tests", &[]),
    ("strata-bench", &["strata-tests"]),
];

/// The image stack as a whole.
const STACK: &[&str] = &[
    "strata-exec",
    "strata-storage",
    "strata-format",
    "strata-graph",
    "strata-block",
];

/// Modules, and paths that they may not import. `crate` is the module's own.
const MODULES: [(&str, &[&str]); 6] = [
    // Formats do not know each other; what they share lies beside both.
    ("block/format/src/qcow2", &["crate::qed"]),
    ("block/format/src/qed", &["crate::qcow2"]),
    // Command values are plain data.
    (
        "block/engine/src/api",
        &[
            "strata_graph",
            "strata_format",
            "crate::engine",
            "crate::jobs",
            "crate::nbd",
        ],
    ),
    // Devices know the seam, not the words of the monitor.
    ("devices/src", &["strata_block::api"]),
    // The monitor has values, no disks.
    (
        "vmm/src/monitor",
        &["strata_block::disk", "strata_block::engine"],
    ),
    // The server answers requests; what an export is for a monitor, the engine knows.
    ("block/engine/src/nbd", &["crate::api", "crate::engine"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dependencies on crates of ours: `(section, name, whole line)`.
fn dependencies(manifest: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut section = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies") && line.starts_with("strata-") {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            found.push((section.clone(), name.to_owned(), line.to_owned()));
        }
    }
    found
}

/// The value of `name` in a package's manifest.
fn package_name(manifest: &str) -> &str {
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("name = "));
    line.expect("a package has a name").trim_matches('"')
}

/// What is wrong with a package's dependencies.
fn judge(manifest: &str) -> Vec<String> {
    let name = package_name(manifest);
    let allowed: BTreeMap<_, _> = CRATES.into_iter().collect();
    let mut wrong = Vec::new();
    for (section, other, line) in dependencies(manifest) {
        // A crate may switch on its own features for its tests.
        let own = other == name && section == "dev-dependencies";
        match allowed.get(name) {
            None => wrong.push(format!("{name} has no place in the order of crates")),
            Some(allowed) if !own && !allowed.contains(&other.as_str()) => {
                wrong.push(format!("{name} uses {other} ({section})"));
            }
            Some(_) => {}
        }
        if section != "dev-dependencies" && line.contains("\"sim\"") {
            wrong.push(format!("{name} has simulated files outside its tests"));
        }
    }
    wrong
}

/// The paths that a source file names: those of its `use` lines, one by one, and those in its code.
fn paths(source: &str) -> Vec<String> {
    let word = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    let mut found = Vec::new();
    let mut lines = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    while let Some(line) = lines.next() {
        let Some(start) = use_tree(line) else {
            let paths = line.split(word).filter(|path| path.contains("::"));
            found.extend(paths.map(str::to_owned));
            continue;
        };
        let mut tree = start.to_owned();
        while !tree.contains(';') {
            let Some(more) = lines.next() else { break };
            tree.push_str(more.trim());
        }
        flatten("", tree.split(';').next().unwrap_or_default(), &mut found);
    }
    found
}

/// What stands behind `use` in a line that begins so, perhaps after `pub`.
fn use_tree(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) => rest.trim_start_matches(|c| c != ' ').trim_start(),
        None => line,
    };
    line.strip_prefix("use ")
}

/// Adds the leaves of a use tree.
fn flatten(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        found.push(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let body = body.trim_end().strip_suffix('}').unwrap_or(body);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&prefix, &body[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !body[start..].trim().is_empty() {
        flatten(&prefix, &body[start..], found);
    }
}

/// The forbidden paths that a source file names.
fn forbidden_in(source: &str, forbidden: &[&str]) -> Vec<String> {
    let starts = |path: &str, forbidden: &str| {
        let rest = path.strip_prefix(forbidden);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let named = paths(source).into_iter();
    named
        .filter(|path| forbidden.iter().any(|forbidden| starts(path, forbidden)))
        .collect()
}

/// The source files of a module: `NAME.rs` and those in `NAME/`.
fn sources(module: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let file = module.with_extension("rs");
    if file.exists() {
        found.push(file);
    }
    let mut directories = vec![module.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn crates_use_only_those_below_them() {
    let workspace = read(&root().join("Cargo.toml"));
    let line = workspace.lines().find(|line| line.starts_with("members"));
    let members = line.expect("the workspace has members").split('"');
    let members: Vec<_> = members.skip(1).step_by(2).collect();
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for member in members {
        let manifest = read(&root().join(member).join("Cargo.toml"));
        seen.push(package_name(&manifest).to_owned());
        wrong.extend(judge(&manifest));
    }
    for (name, _) in CRATES {
        assert!(seen.iter().any(|seen| seen == name), "{name} is no member");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn modules_do_not_import_what_they_may_not_know() {
    let mut wrong = Vec::new();
    for (module, forbidden) in MODULES {
        let files = sources(&root().join(module));
        assert!(!files.is_empty(), "there is no {module}");
        for file in files {
            for path in forbidden_in(&read(&file), forbidden) {
                wrong.push(format!("{} names {path}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_forbidden_dependency_is_seen() {
    let manifest = |section: &str, line: &str| {
        format!("[package]\nname = \"strata-format\"\n\n[{section}]\n{line}\n")
    };
    let fine = manifest("dependencies", "strata-storage.workspace = true");
    assert!(judge(&fine).is_empty());
    for section in ["dependencies", "dev-dependencies"] {
        let up = manifest(section, "strata-graph = { path = \"../graph\" }");
        assert_eq!(
            judge(&up),
            [format!("strata-format uses strata-graph ({section})")]
        );
    }
    let sim = "strata-storage = { workspace = true, features = [\"sim\"] }";
    assert_eq!(judge(&manifest("dependencies", sim)).len(), 1);
    assert!(judge(&manifest("dev-dependencies", sim)).is_empty());
}

#[test]
fn a_forbidden_import_is_seen() {
    for (source, count) in [
        ("use crate::qed;", 1),
        ("    pub(super) use crate::qed::Qed;", 1),
        (
            "use crate::{\n    below::Below,\n    qed::{create, header::Header},\n};",
            2,
        ),
        ("fn f() { crate::qed::create() }", 1),
        ("use crate::{qedit, below::Below};", 0),
        ("// use crate::qed;", 0),
        ("use strata_format::qed;", 0),
    ] {
        assert_eq!(
            forbidden_in(source, &["crate::qed"]).len(),
            count,
            "{source}"
        );
    }
}
