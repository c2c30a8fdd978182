//! The files that a command leaves as its results, on the host.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use super::{TestError, file_error};

/// Writes them into a directory of the host. What the guest says is not trusted: no name leads out
/// of it, and nothing that is there is followed.
#[derive(Debug)]
pub struct Results {
    directory: PathBuf,
    file: Option<File>,
}

impl Results {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// The host's.
    pub fn create(directory: &Path) -> Result<Self, TestError> {
        fs::create_dir_all(directory).map_err(file_error("make the directory", directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            file: None,
        })
    }

    /// A directory.
    ///
    /// # Errors
    /// The host's, or that the name leads elsewhere.
    pub fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.file = None;
        let path = self.place(name)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path) => {
                Ok(())
            }
            result => result,
        }
    }

    /// A file begins: its mode in four bytes, and its name.
    ///
    /// # Errors
    /// As for directories.
    pub fn file(&mut self, head: &[u8]) -> io::Result<()> {
        self.file = None;
        let (mode, name) = head.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let path = self.place(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = u32::from_le_bytes(*mode) & 0o777;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        self.file = Some(file);
        Ok(())
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// The host's.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    /// Where a name is, if all directories on the way there are ours.
    fn place(&self, name: &[u8]) -> io::Result<PathBuf> {
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let mut path = self.directory.clone();
        let mut components = name.components().peekable();
        if components.peek().is_none() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        while let Some(component) = components.next() {
            let Component::Normal(part) = component else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            path.push(part);
            if components.peek().is_some() && !is_directory(&path) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        Ok(path)
    }
}

/// Whether it is a directory itself, not a link to one.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

#[cfg(test)]
mod tests;
