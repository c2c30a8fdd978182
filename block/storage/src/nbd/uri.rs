//! Names of exports: `nbd://HOST[:PORT][/EXPORT]` and `nbd+unix:///[EXPORT]?socket=PATH` (the NBD
//! project's `doc/uri.md`). With `nbds` for `nbd` the connection is under TLS;
//! `tls-certificates=DIR` then says where the certificates are, and `tls-hostname=NAME` which name
//! the server's has to show, if not HOST (`localhost` for a Unix socket).

use std::path::{Path, PathBuf};

use crate::{Identity, nbd::wire::Address};

/// The port that IANA has reserved.
const DEFAULT_PORT: u16 = 10809;

/// An export on some server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    pub address: Address,
    /// Empty for the server's default export.
    pub export: String,
    /// How to protect it, if at all.
    pub tls: Option<TlsPlan>,
}

/// What a client has to know for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsPlan {
    /// The directory with the certificates.
    pub dir: PathBuf,
    /// What the server's certificate has to name.
    pub host: String,
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
        let mut query = Query::parse(query)?;
        let (scheme, tls) = match scheme.strip_prefix("nbds") {
            Some(rest) => (format!("nbd{rest}"), true),
            None => (scheme.to_owned(), false),
        };
        let address = match scheme.as_str() {
            "nbd" => tcp(host)?,
            "nbd+unix" if host.is_empty() => {
                let path = query.take("socket");
                Address::Unix(
                    path.ok_or("the socket is missing: write ?socket=PATH")?
                        .into(),
                )
            }
            "nbd+unix" => return Err("a Unix socket has no host: write nbd+unix:///".into()),
            _ => {
                return Err(format!(
                    "'{scheme}' is not nbd, nbds, nbd+unix or nbds+unix"
                ));
            }
        };
        let tls = tls.then(|| query.tls(&address)).transpose()?;
        query.end()?;
        Ok(Self {
            address,
            export,
            tls,
        })
    }
}

impl Uri {
    /// Which export it is, however it is reached.
    pub fn identity(&self) -> Identity {
        Identity::Export {
            address: self.address.clone(),
            name: self.export.clone(),
        }
    }
}

/// What stands behind the question mark.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .ok_or(format!("'{pair}' is not key=value"))?;
            let value = decode(value)?;
            if value.is_empty() {
                return Err(format!("{key} is empty"));
            }
            Ok((key.to_owned(), value))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let place = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(place).1)
    }

    fn tls(&mut self, address: &Address) -> Result<TlsPlan, String> {
        let dir = self.take("tls-certificates");
        let dir = dir.ok_or("the certificates are missing: write ?tls-certificates=DIR")?;
        let host = self.take("tls-hostname").unwrap_or_else(|| match address {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(_) => "localhost".to_owned(),
        });
        Ok(TlsPlan {
            dir: dir.into(),
            host,
        })
    }

    /// Nothing may be left over.
    fn end(self) -> Result<(), String> {
        match self.0.first() {
            Some((key, _)) => Err(format!("'{key}' has no meaning here")),
            None => Ok(()),
        }
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

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("'{text}' is not percent-encoded UTF-8 without NUL");
    let mut bytes = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| u8::try_from(char::from(byte?).to_digit(16)?).ok();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => high << 4 | low,
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
