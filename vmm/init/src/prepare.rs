//! Makes the guest ready for the command.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    plan::{Plan, RootDisk},
    sys,
};

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

/// Where each driver shows that the kernel has it, by its module's name.
const DRIVERS: &[(&str, &str)] = &[
    ("virtio_pci", "pci/drivers/virtio-pci"),
    ("virtio_blk", "virtio/drivers/virtio_blk"),
    ("ata_piix", "pci/drivers/ata_piix"),
    ("sd_mod", "scsi/drivers/sd"),
    ("sr_mod", "scsi/drivers/sr"),
];

/// Whether the kernel has what its disks need, where no module could bring it.
pub fn check_drivers(wanted: &[String]) -> Result<(), String> {
    let bus = Path::new("/sys/bus");
    let is_missing = |name: &&String| {
        let driver = DRIVERS.iter().find(|(module, _)| module == name);
        driver.is_some_and(|(_, place)| !bus.join(place).exists())
    };
    match wanted.iter().find(is_missing) {
        None => Ok(()),
        Some(name) => Err(format!(
            "the guest's kernel has no {name}, which its disks need: it is not built in, and the \
             host has found no modules of this kernel"
        )),
    }
}

/// Mounts the disk that the plan names; returns what is the root for the command.
pub fn enter_root(plan: &Plan) -> Result<PathBuf, String> {
    let Some(disk) = plan.root else {
        return Ok(PathBuf::from("/"));
    };
    let devices = parts(&wait_for(disk)?);
    for device in &devices {
        for kind in &plan.file_systems {
            if fs::create_dir_all(ROOT).is_ok() && mount_root(device, kind).is_ok() {
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

/// Mounts it for writing, or for reading where the disk cannot be written to.
fn mount_root(device: &str, kind: &str) -> io::Result<()> {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match sys::mount_at(device, ROOT, kind, 0) {
        Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
            sys::mount_at(device, ROOT, kind, sys::READ_ONLY)
        }
        mounted => mounted,
    }
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

/// The disk's name, once the kernel has found it.
fn wait_for(disk: RootDisk) -> Result<String, String> {
    let start = Instant::now();
    loop {
        if let Some(name) = find(disk) {
            return Ok(name);
        }
        if start.elapsed() > PATIENCE {
            return Err("--root: the guest's kernel has not found the disk".to_owned());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The disk's name in `/sys/block`.
fn find(disk: RootDisk) -> Option<String> {
    let entries = fs::read_dir("/sys/block").ok()?.flatten();
    let mut names = entries.filter_map(|entry| {
        let place = fs::read_link(entry.path()).ok()?;
        let name = entry.file_name().into_string().ok()?;
        let is_it = match disk {
            RootDisk::Virtio => name == "vda",
            RootDisk::Ide => is_first_ide_drive(&place),
        };
        is_it.then_some(name)
    });
    names.next()
}

/// Whether a device's place in `/sys` is that of the first drive on the first channel. Its name may
/// be any: the kernel looks at both channels at the same time.
fn is_first_ide_drive(place: &Path) -> bool {
    let mut parts = place.iter().map(|part| part.to_string_lossy());
    // Then the host, the target, and the unit as HOST:CHANNEL:TARGET:LUN.
    parts.any(|part| part == "ata1") && parts.nth(2).is_some_and(|unit| unit.ends_with(":0:0:0"))
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

#[cfg(test)]
mod tests;
