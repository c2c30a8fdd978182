//! Sends the files that the command has left as its results.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use crate::{channel::Channel, frame};

/// Sends everything in `dir`: directories and plain files. Others are named, and left out.
pub fn send(channel: &Channel, dir: &Path) -> Result<(), String> {
    send_below(channel, dir, dir)
}

fn send_below(channel: &Channel, top: &Path, dir: &Path) -> Result<(), String> {
    let failed = |path: &Path, error| format!("results: {}: {error}", path.display());
    let entries = fs::read_dir(dir).map_err(|error| failed(dir, error))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| failed(&path, error))?;
        let name = path.strip_prefix(top).unwrap_or(&path);
        if kind.is_dir() {
            channel.send(frame::DIRECTORY, name.as_os_str().as_bytes());
            send_below(channel, top, &path)?;
        } else if kind.is_file() {
            send_file(channel, &path, name).map_err(|error| failed(&path, error))?;
        } else {
            let text = format!(
                "results: {} is no plain file, and is left out",
                name.display()
            );
            channel.send(frame::MESSAGE, text.as_bytes());
        }
    }
    Ok(())
}

fn send_file(channel: &Channel, path: &Path, name: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut head = mode.to_le_bytes().to_vec();
    head.extend(name.as_os_str().as_bytes());
    channel.send(frame::FILE, &head);
    let mut bytes = [0; frame::MAX];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(()),
            count => channel.send(frame::FILE_DATA, &bytes[..count]),
        }
    }
}
