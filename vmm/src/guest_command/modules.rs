//! The kernel's modules: which there are, and what they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{TestError, file_error, kernel::Kernel};

/// What a kernel has as modules, and what is built in.
#[derive(Debug, Default)]
pub struct Modules {
    /// Absent where no directory was found: then everything is taken for built in.
    directory: Option<PathBuf>,
    built_in: BTreeSet<String>,
    /// By name: the file, and the files that it needs, in the directory.
    files: BTreeMap<String, (String, Vec<String>)>,
}

impl Modules {
    /// Reads what `depmod` has written down for a kernel.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(kernel: &Kernel) -> Result<Self, TestError> {
        let directories = kernel.module_directories();
        match directories
            .into_iter()
            .find(|directory| directory.join("modules.dep").exists())
        {
            Some(directory) if !kernel.version.is_empty() => Self::read(directory),
            _ => Ok(Self::default()),
        }
    }

    fn read(directory: PathBuf) -> Result<Self, TestError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(file_error("read", path))
        };
        let dependencies = read("modules.dep")?;
        let built_in = read("modules.builtin")?;
        Ok(Self {
            built_in: built_in.lines().map(name).collect(),
            files: dependencies.lines().filter_map(dependency).collect(),
            directory: Some(directory),
        })
    }

    /// Whether none were found.
    pub fn are_missing(&self) -> bool {
        self.directory.is_none()
    }

    /// The files of modules by these names and of all that they need, in the order in which they
    /// load.
    ///
    /// # Errors
    /// One is neither there nor built in.
    pub fn needed(&self, kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>, TestError> {
        let Some(directory) = &self.directory else {
            return Ok(Vec::new());
        };
        let mut files: Vec<&String> = Vec::new();
        for wanted in names {
            if self.built_in.contains(*wanted) {
                continue;
            }
            let Some((file, needs)) = self.files.get(*wanted) else {
                return Err(TestError::NoModule {
                    version: kernel.version.clone(),
                    module: (*wanted).to_owned(),
                    directory: directory.clone(),
                });
            };
            // What is needed stands there the other way round.
            for file in needs.iter().rev().chain([file]) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files.into_iter().map(|file| directory.join(file)).collect())
    }
}

/// `FILE: FILE FILE...`.
fn dependency(line: &str) -> Option<(String, (String, Vec<String>))> {
    let (file, needs) = line.split_once(':')?;
    let needs = needs.split_whitespace().map(str::to_owned).collect();
    Some((name(file), (file.to_owned(), needs)))
}

/// A module's name: its file's without directories and endings, and with underscores.
fn name(file: &str) -> String {
    let file = Path::new(file)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let stem = file.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests;
