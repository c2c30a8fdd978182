//! Arguments of the query for chains.

use serde::{Deserialize, Serialize};

use super::CmdError;

/// `x-strata-query-chain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QueryChain {
    /// The disk, or a layer of one, from which on the chain is described; all disks if `None`.
    pub device: Option<String>,
    /// In how many parts the maps cut the disk: 1 to 4096, 256 if `None`.
    pub parts: Option<u16>,
}

impl QueryChain {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        match self.parts {
            None | Some(1..=4096) => Ok(()),
            Some(_) => Err(CmdError::generic("Parameter 'parts' expects 1 to 4096")),
        }
    }
}
