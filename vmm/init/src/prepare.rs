//! Makes the guest ready for the command.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{plan::Plan, sys};

/// Where a disk's file system is mounted.
const ROOT: &str = "/root";
/// A disk that has not been found by then is not there. IDE ones take their time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every program expects.
pub fn mount_kernel_file_systems() -> Result<(), String> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        mount(kind, target, kind, 0)?;
    }
    Ok(())
}

fn mount(source: &str, target: &str, kind: &str, flags: u64) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|error| format!("{target}: {error}"))?;
    sys::mount_at(source, target, kind, flags)
        .map_err(|error| format!("{source} cannot be mounted at {target}: {error}"))
}

/// Loads them in order. One that the kernel has already is no mistake.
pub fn load_modules(paths: &[String]) -> Result<(), String> {
    const EEXIST: i32 = 17;
    for path in paths {
        let loaded = File::open(path).and_then(|file| sys::load_module(&file));
        match loaded {
            Err(error) if error.raw_os_error() != Some(EEXIST) => {
                return Err(format!("module {path} does not load: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts the disk that the plan names; returns what is the root for the command.
pub fn enter_root(plan: &Plan) -> Result<PathBuf, String> {
    let Some(disk) = &plan.root else {
        return Ok(PathBuf::from("/"));
    };
    wait_for(disk, plan.without_modules)?;
    let devices = parts(disk);
    for device in &devices {
        for kind in &plan.file_systems {
            if fs::create_dir_all(ROOT).is_ok() && sys::mount_at(device, ROOT, kind, 0).is_ok() {
                // Something may be mounted that is no system: a boot partition.
                if Path::new(ROOT).join("etc").is_dir() || devices.len() == 1 {
                    carry_over()?;
                    return Ok(PathBuf::from(ROOT));
                }
            }
        }
    }
    Err(format!(
        "--root: no file system was found there that can be mounted (tried {} on {})",
        plan.file_systems.join(", "),
        devices.join(", ")
    ))
}

/// The disk's partitions, or the disk itself where it has none.
fn parts(disk: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/block/{disk}")).into_iter();
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    let mut parts: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(disk))
        .map(|name| format!("/dev/{name}"))
        .collect();
    parts.sort();
    if parts.is_empty() {
        parts.push(format!("/dev/{disk}"));
    }
    parts
}

fn wait_for(disk: &str, without_modules: bool) -> Result<(), String> {
    let start = Instant::now();
    while !Path::new("/sys/block").join(disk).exists() {
        if start.elapsed() > PATIENCE {
            let why = if without_modules {
                ": its driver is not built in, and the host has found no modules of this kernel"
            } else {
                ""
            };
            return Err(format!(
                "--root: the guest's kernel has found no disk {disk}{why}"
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The file systems of the kernel are seen in the new root, too.
fn carry_over() -> Result<(), String> {
    for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run"] {
        mount(place, &format!("{ROOT}{place}"), "", sys::BIND)?;
    }
    Ok(())
}

/// Puts what was shared where it is wanted.
pub fn place_shares(shares: &[(String, String)], root: &Path) -> Result<(), String> {
    for (from, to) in shares {
        let target = root.join(to.trim_start_matches('/'));
        mount(from, &target.to_string_lossy(), "", sys::BIND)?;
    }
    Ok(())
}

/// Makes sure that the root's file system is as good as unmounted.
pub fn leave_root(root: &Path) {
    if root != Path::new("/") {
        // Programs that are still there keep it from being read-only; then it is written back all
        // the same.
        let _ = sys::mount_at("", ROOT, "", sys::REMOUNT | sys::READ_ONLY);
    }
}
