//! [`DiskName`]: what a command calls a disk by.

use std::fmt;

use super::CmdError;

/// What a command calls a disk by: its id (`device`), the node name of its top layer (`node-name`),
/// or both. Then the node name counts where nothing has the id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskName {
    /// The disk's id.
    pub device: Option<String>,
    /// A layer's node name.
    pub node_name: Option<String>,
}

impl DiskName {
    pub(super) fn new(device: &Option<String>, node_name: &Option<String>) -> Self {
        Self {
            device: device.clone(),
            node_name: node_name.clone(),
        }
    }

    /// Refuses a name without a word.
    pub(super) fn check(&self) -> Result<(), CmdError> {
        match self.names().next() {
            Some(_) => Ok(()),
            None => Err(CmdError::generic(format!("Cannot find {self}"))),
        }
    }

    /// The names to look for, in this order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [&self.device, &self.node_name]
            .into_iter()
            .filter_map(|name| name.as_deref())
    }
}

/// The disk with this id.
impl From<&str> for DiskName {
    fn from(device: &str) -> Self {
        Self {
            device: Some(device.to_owned()),
            node_name: None,
        }
    }
}

/// As QEMU says it of a disk that there is not.
impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.as_deref().unwrap_or_default();
        let node_name = self.node_name.as_deref().unwrap_or_default();
        write!(f, "device='{device}' nor node-name='{node_name}'")
    }
}
