//! Block devices to make images on: loop devices.

use std::{fs, process::Command};

use crate::{Directory, text};

/// A loop device on a file of the directory; goes when it is dropped.
pub struct Device(String);

impl Device {
    /// A device of `len` bytes, a multiple of 512; `None`, and a word about it, where this machine
    /// has none to give.
    pub fn new(directory: &Directory, name: &str, len: u64) -> Option<Self> {
        Self::with_sectors(directory, name, len, 512)
    }

    /// The same, with sectors of that many bytes.
    pub fn with_sectors(directory: &Directory, name: &str, len: u64, sector: u32) -> Option<Self> {
        let file = fs::File::create(directory.path(name)).unwrap();
        file.set_len(len).unwrap();
        let sector = sector.to_string();
        let args = ["--find", "--show", "--sector-size", &sector];
        let output = Command::new("losetup")
            .args(args)
            .arg(directory.path(name))
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(text(&output.stdout).trim().to_owned()))
            }
            other => {
                eprintln!("SKIPPED: there are no loop devices here: {other:?}");
                None
            }
        }
    }

    pub fn path(&self) -> &str {
        &self.0
    }

    /// Writes one byte everywhere.
    pub fn fill(&self, byte: u8) {
        let len = self.content().len();
        fs::write(&self.0, vec![byte; len]).unwrap();
    }

    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .args(["--detach", &self.0])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .status();
        // A panic in a test that has failed would hide why.
        if !std::thread::panicking() {
            assert!(detached.unwrap().success(), "{}", self.0);
        }
    }
}
