//! Names of exports: `nbd://HOST[:PORT][/EXPORT]` and `nbd+unix:///[EXPORT]?socket=PATH` (the NBD
//! project's `doc/uri.md`).

use std::path::Path;

use crate::nbd::Address;

/// The port that IANA has reserved.
const DEFAULT_PORT: u16 = 10809;

/// An export on some server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    pub address: Address,
    /// Empty for the server's default export.
    pub export: String,
}

/// Whether an image's name is that of an export rather than of a file.
pub fn is_nbd_uri(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    [
        b"nbd://".as_slice(),
        b"nbd+unix:",
        b"nbds://",
        b"nbds+unix:",
    ]
    .iter()
    .any(|scheme| name.starts_with(scheme))
}

impl Uri {
    /// Parses `text`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or("it has no scheme")?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place
            .strip_prefix("//")
            .ok_or("it has no // after the scheme")?;
        let (host, export) = place.split_once('/').unwrap_or((place, ""));
        let export = decode(export)?;
        let address = match scheme {
            "nbd" if query.is_empty() => tcp(host)?,
            "nbd" => return Err(format!("'?{query}' has no meaning for TCP")),
            "nbd+unix" if host.is_empty() => unix(query)?,
            "nbd+unix" => return Err("a Unix socket has no host: write nbd+unix:///".into()),
            _ => return Err("TLS is not available".into()),
        };
        Ok(Self { address, export })
    }
}

fn tcp(host: &str) -> Result<Address, String> {
    // A port follows the last colon, unless that is within the brackets of an IPv6 address.
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let bad = |_| format!("'{port}' is not a port");
            (host, port.parse().map_err(bad)?)
        }
        _ => (host, DEFAULT_PORT),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = decode(bare.unwrap_or(host))?;
    if host.is_empty() {
        return Err("it has no host".into());
    }
    Ok(Address::Tcp { host, port })
}

fn unix(query: &str) -> Result<Address, String> {
    let path = query
        .strip_prefix("socket=")
        .filter(|path| !path.contains('&'))
        .ok_or("the socket is missing: write ?socket=PATH")?;
    let path = decode(path)?;
    if path.is_empty() {
        return Err("the socket's path is empty".into());
    }
    Ok(Address::Unix(path.into()))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("'{text}' is not percent-encoded UTF-8 without NUL");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let byte = match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Err(bad()),
            },
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests;
