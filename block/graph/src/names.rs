//! The names of everything that commands refer to.
//!
//! A name is taken before the thing exists that will have it, and is free again when its [`Name`]
//! is dropped: so of two commands under way at the same time, one has it. What a name means is
//! looked up where the things are; this is no second list of them.
//!
//! Disks and layers may not have the same name, since commands take either. A name of anything
//! else says nothing about others: a job is usually called as its disk is. Bitmaps have a namespace
//! for each layer ([`Bitmaps::reserve`](strata_format::bitmap::Bitmaps::reserve)), and what NBD
//! clients ask for has one for each server.

use std::cell::Cell;

use strata_format::names::{Name, Namespace};

/// Bytes in a node name at most.
const LONGEST: usize = 31;

/// Why a name cannot be had, in QEMU's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// QEMU's rule for node names, which its clients rely on.
    #[error("Invalid node-name: '{0}'")]
    Malformed(String),
    /// Another disk has it.
    #[error("Device with id '{0}' already exists")]
    DiskExists(String),
    /// A layer has what was to be a disk's id.
    #[error("Device name '{0}' conflicts with an existing node name")]
    DiskLikeLayer(String),
    /// A disk has what was to be a layer's name.
    #[error("node-name={0} is conflicting with a device id")]
    LayerLikeDisk(String),
    /// Another layer has it.
    #[error("the node name '{0}' is another layer's")]
    LayerExists(String),
    /// QEMU's rule for the ids of jobs.
    #[error("Invalid job ID '{0}'")]
    MalformedJob(String),
    /// Another job has it.
    #[error("Job ID '{0}' already in use")]
    JobExists(String),
    /// Another export has it.
    #[error("Block export id '{0}' is already in use")]
    ExportExists(String),
    /// Another object has it.
    #[error("attempt to add duplicate property '{0}' to object (type 'container')")]
    ObjectExists(String),
}

/// Every name that is in use or reserved.
#[derive(Default)]
pub struct Names {
    disks: Namespace,
    layers: Namespace,
    jobs: Namespace,
    exports: Namespace,
    objects: Namespace,
    made_up: Cell<u32>,
}

impl Names {
    /// Takes a disk's id. A disk without one is not found by its name, so that there may be many.
    ///
    /// # Errors
    /// It is taken.
    pub fn disk(&self, id: &str) -> Result<Option<Name>, NameError> {
        if id.is_empty() {
            return Ok(None);
        }
        if self.layers.contains(id) {
            return Err(NameError::DiskLikeLayer(id.to_owned()));
        }
        let exists = || NameError::DiskExists(id.to_owned());
        self.disks.reserve(id).ok_or_else(exists).map(Some)
    }

    /// Takes a layer's name that somebody has chosen.
    ///
    /// # Errors
    /// It is taken, or not a name.
    pub fn layer(&self, name: &str) -> Result<Name, NameError> {
        if !is_well_formed(name) || name.len() > LONGEST {
            return Err(NameError::Malformed(name.to_owned()));
        }
        if self.disks.contains(name) {
            return Err(NameError::LayerLikeDisk(name.to_owned()));
        }
        let exists = || NameError::LayerExists(name.to_owned());
        self.layers.reserve(name).ok_or_else(exists)
    }

    /// A layer's name as QEMU makes them up, which its users' scripts filter out.
    pub fn made_up(&self) -> Name {
        loop {
            let number = self.made_up.get();
            self.made_up.set(number + 1);
            let name = format!("#block{}", 100 + number);
            if self.disks.contains(&name) {
                continue;
            }
            if let Some(name) = self.layers.reserve(&name) {
                return name;
            }
        }
    }

    /// Takes a job's id.
    ///
    /// # Errors
    /// It is taken, or not an id.
    pub fn job(&self, id: &str) -> Result<Name, NameError> {
        if !is_well_formed(id) {
            return Err(NameError::MalformedJob(id.to_owned()));
        }
        let exists = || NameError::JobExists(id.to_owned());
        self.jobs.reserve(id).ok_or_else(exists)
    }

    /// Takes an export's id.
    ///
    /// # Errors
    /// It is taken.
    pub fn export(&self, id: &str) -> Result<Name, NameError> {
        let exists = || NameError::ExportExists(id.to_owned());
        self.exports.reserve(id).ok_or_else(exists)
    }

    /// Takes the id of an object (`object-add`), of whatever type.
    ///
    /// # Errors
    /// It is taken.
    pub fn object(&self, id: &str) -> Result<Name, NameError> {
        let exists = || NameError::ObjectExists(id.to_owned());
        self.objects.reserve(id).ok_or_else(exists)
    }
}

/// A letter, then letters, digits, `-`, `.` and `_`.
fn is_well_formed(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests;
