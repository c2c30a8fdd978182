//! The value of `--object`: `tls-creds-x509,id=ID,dir=DIR[,endpoint=server][,verify-peer=on|off]`.

use strata_block::api::TlsCreds;

use super::keys::{self, choose, on_off};

/// One object as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectOption {
    /// What others call it.
    pub id: String,
    /// What it is.
    pub creds: TlsCreds,
}

const TYPE: &str = "tls-creds-x509";

/// Parses it.
///
/// # Errors
/// What is wrong, with what would be right.
pub fn parse(text: &str) -> Result<ObjectOption, String> {
    let (kind, rest) = text.split_once(',').unwrap_or((text, ""));
    if kind != TYPE {
        return Err(format!("'{kind}' is not an object's type; expected {TYPE}"));
    }
    let (mut id, mut dir, mut verify_peer) = (None, None, true);
    for (key, value) in keys::pairs(rest)? {
        match key.as_str() {
            "id" => id = Some(value),
            "dir" => dir = Some(value),
            "endpoint" => choose(&key, &value, &[("server", ())])?,
            "verify-peer" => verify_peer = on_off(&key, &value)?,
            _ => {
                let known = "id, dir, endpoint, verify-peer";
                return Err(format!("unknown key '{key}'; known keys: {known}"));
            }
        }
    }
    Ok(ObjectOption {
        id: id.ok_or("id=ID is missing")?,
        creds: TlsCreds {
            dir: dir.ok_or("dir=DIR is missing")?.into(),
            verify_peer,
        },
    })
}

#[cfg(test)]
mod tests;
