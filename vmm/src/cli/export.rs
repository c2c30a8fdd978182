//! The value of `--export`: `type=nbd,disk=NAME,addr=unix:PATH|tcp:HOST:PORT,...`.

use strata_block::{engine::ExportSpec, nbd::Address};

use super::keys::{self, choose};

/// One export as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOption {
    /// Where clients connect.
    pub address: Address,
    /// What they find there.
    pub spec: ExportSpec,
}

const KNOWN: &str = "type, disk, addr, name, id, description, writable";

/// Parses it.
///
/// # Errors
/// What is wrong, with what would be right.
pub fn parse(text: &str) -> Result<ExportOption, String> {
    let mut address = None;
    let mut typed = false;
    let mut spec = ExportSpec::default();
    for (key, value) in keys::pairs(text)? {
        match key.as_str() {
            "type" => typed = choose(&key, &value, &[("nbd", true)])?,
            "disk" => spec.disk = value,
            "addr" => address = Some(value.parse::<Address>().map_err(|e| e.to_string())?),
            "name" => spec.name = Some(value),
            "id" => spec.id = Some(value),
            "description" => spec.description = Some(value),
            "writable" => {
                spec.writable = choose(&key, &value, &[("on", true), ("off", false)])?;
            }
            _ => return Err(format!("unknown key '{key}'; known keys: {KNOWN}")),
        }
    }
    if !typed {
        return Err("type=nbd is missing".into());
    }
    if spec.disk.is_empty() {
        return Err("disk=NAME is missing".into());
    }
    let address = address.ok_or("addr=unix:PATH or addr=tcp:HOST:PORT is missing")?;
    Ok(ExportOption { address, spec })
}

#[cfg(test)]
mod tests;
