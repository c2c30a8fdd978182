//! For tests: a device with blocks that it cannot store. Writes to them go well as long as they
//! stay in the host's page cache, and are lost when they are written back.

#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A loop device on a file with a hole, on a file system that has no room for what is missing
/// there. Gone when dropped.
pub struct LossyDevice {
    store: tempfile::TempDir,
    device: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl LossyDevice {
    /// A device of `size` MiB that can store everything but what is written to the MiBs `bad`.
    /// `None`, and a line that says so, where this machine does not let a test make one.
    pub fn new(size: u64, bad: Range<u64>) -> Option<Self> {
        let store = tempfile::tempdir().unwrap();
        let room = format!("size={}m", size - (bad.end - bad.start));
        let directory = store.path().to_str().unwrap();
        if run("mount", &["-t", "tmpfs", "-o", &room, "none", directory]).is_none() {
            eprintln!("SKIPPED: this machine lets the test mount nothing (is it root's?)");
            return None;
        }
        let mut lossy = Self {
            store,
            device: PathBuf::new(),
            mounted: None,
        };
        let path = lossy.store.path().join("store");
        let file = File::create(&path).unwrap();
        file.set_len(size << 20).unwrap();
        for mib in (0..size).filter(|mib| !bad.contains(mib)) {
            file.write_all_at(&[0; 1 << 20], mib << 20).unwrap();
        }
        let path = path.to_str().unwrap();
        let Some(device) = run("losetup", &["--find", "--show", path]) else {
            eprintln!("SKIPPED: this machine has no loop devices");
            return None;
        };
        lossy.device = device.trim().into();
        Some(lossy)
    }

    /// The device's name.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// A directory on the device, on a file system whose own blocks lie at its beginning.
    pub fn directory(&mut self) -> PathBuf {
        let directory = tempfile::tempdir().unwrap();
        let (device, on) = (
            self.device.to_str().unwrap(),
            directory.path().to_str().unwrap(),
        );
        // A discard would make holes where there is room.
        let options = [
            "-q",
            "-b",
            "4096",
            "-F",
            "-N",
            "16",
            "-O",
            "^has_journal",
            "-E",
            "nodiscard",
        ];
        run("mkfs.ext4", &[options.as_slice(), &[device]].concat()).expect("a file system");
        run("mount", &[device, on]).expect("it can be mounted");
        let path = directory.path().to_owned();
        self.mounted = Some(directory);
        path
    }

    /// From now on it can store everything.
    pub fn mend(&self) {
        let store = self.store.path().to_str().unwrap();
        run("mount", &["-o", "remount,size=100%", store]).expect("root may do that");
    }
}

impl Drop for LossyDevice {
    fn drop(&mut self) {
        if let Some(directory) = &self.mounted {
            run("umount", &["--lazy", directory.path().to_str().unwrap()]);
        }
        if self.device.is_absolute() {
            run("losetup", &["--detach", self.device.to_str().unwrap()]);
        }
        run("umount", &["--lazy", self.store.path().to_str().unwrap()]);
    }
}

/// What the program prints if it succeeds.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    // Programs of administration are not on an ordinary user's path.
    let mut command = Command::new("env");
    command
        .arg(format!("PATH={path}:/usr/sbin:/sbin"))
        .arg(program)
        .args(args);
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
