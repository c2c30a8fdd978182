//! The value of `--export`: `type=nbd,disk=NAME,addr=unix:PATH|tcp:HOST:PORT,...`, or
//! `type=vhost-user-blk,disk=NAME,addr=unix:PATH,...`.

use strata_block::{
    api::{BitmapRef, VhostUserSpec},
    engine::ExportSpec,
};
use strata_devices::vhost_user::MAX_QUEUES;
use strata_storage::nbd::wire::Address;

use super::keys::{self, choose, on_off};

/// One export as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportOption {
    /// On an NBD server.
    Nbd {
        /// Where clients connect.
        address: Address,
        /// Id of the `--object` with which they have to start TLS.
        tls_creds: Option<String>,
        /// What they find there.
        spec: ExportSpec,
    },
    /// For another virtual machine.
    VhostUser {
        /// The export's name in the monitor.
        id: String,
        /// The disk.
        disk: String,
        /// How it is served.
        spec: VhostUserSpec,
    },
}

/// Parses it.
///
/// # Errors
/// What is wrong, with what would be right.
pub fn parse(text: &str) -> Result<ExportOption, String> {
    let pairs = keys::pairs(text)?;
    let kind = pairs.iter().find(|(key, _)| key == "type");
    let (key, value) = kind.ok_or("type=nbd is missing")?;
    let parse = choose(
        key,
        value,
        &[
            ("nbd", nbd as fn(_) -> _),
            ("vhost-user-blk", vhost_user as fn(_) -> _),
        ],
    )?;
    parse(pairs)
}

type Pairs = Vec<(String, String)>;

fn nbd(pairs: Pairs) -> Result<ExportOption, String> {
    let known = "type, disk, addr, name, id, description, writable, bitmap, tls-creds";
    let mut address = None;
    let mut tls_creds = None;
    let mut spec = ExportSpec::default();
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "disk" => spec.disk = value,
            "addr" => address = Some(value.parse::<Address>().map_err(|e| e.to_string())?),
            "name" => spec.name = Some(value),
            "id" => spec.id = Some(value),
            "description" => spec.description = Some(value),
            "tls-creds" => tls_creds = Some(value),
            "writable" => spec.writable = on_off(&key, &value)?,
            "bitmap" => {
                spec.bitmaps = vec![BitmapRef {
                    node: None,
                    name: value,
                }]
            }
            _ => return Err(format!("unknown key '{key}'; known keys: {known}")),
        }
    }
    if spec.disk.is_empty() {
        return Err("disk=NAME is missing".into());
    }
    let address = address.ok_or("addr=unix:PATH or addr=tcp:HOST:PORT is missing")?;
    Ok(ExportOption::Nbd {
        address,
        tls_creds,
        spec,
    })
}

fn vhost_user(pairs: Pairs) -> Result<ExportOption, String> {
    let known = "type, disk, addr, id, writable, num-queues";
    let (mut disk, mut id, mut path) = (None, None, None);
    let (mut writable, mut queues) = (false, 1);
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "disk" => disk = Some(value),
            "id" => id = Some(value),
            "addr" => match value.parse::<Address>() {
                Ok(Address::Unix(socket)) => path = Some(socket),
                _ => return Err(format!("addr={value}: expected unix:PATH")),
            },
            "writable" => writable = on_off(&key, &value)?,
            "num-queues" => {
                let number = value.parse().ok().filter(|n| (1..=MAX_QUEUES).contains(n));
                queues = number.ok_or(format!("{key}={value}: expected 1 to {MAX_QUEUES}"))?;
            }
            _ => return Err(format!("unknown key '{key}'; known keys: {known}")),
        }
    }
    let disk = disk.ok_or("disk=NAME is missing")?;
    let path = path.ok_or("addr=unix:PATH is missing")?;
    Ok(ExportOption::VhostUser {
        id: id.unwrap_or_else(|| disk.clone()),
        disk,
        spec: VhostUserSpec {
            path,
            queues,
            writable,
        },
    })
}

#[cfg(test)]
mod tests;
