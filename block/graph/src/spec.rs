//! What people call an image by: the name of a file, `file:NAME`, the URI of an NBD export, or the
//! options of QEMU's block drivers, as JSON (`json:{"driver": "qcow2", "file": {...}}`) or as a
//! list (`--image-opts driver=qcow2,file.filename=NAME`).

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde_json::Value;
use strata_storage::{is_nbd_uri, split_options};

use super::{Format, chain::ImageOptions};

/// Options that change how fast something is, or how it is called, but not what it shows.
const WITHOUT_MEANING: [&str; 12] = [
    "aio",
    "auto-read-only",
    "cache-clean-interval",
    "cache-size",
    "detect-zeroes",
    "discard",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "node-name",
    "refcount-cache-size",
    "x-check-cache-dropped",
];

/// An image, as somebody has named it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its file, or the URI of an export.
    pub path: PathBuf,
    /// Its format, if that was said.
    pub format: Option<Format>,
    /// Its external data file, in the place of the one that its header names.
    pub data_file: Option<PathBuf>,
    /// It is not written.
    pub read_only: bool,
    /// It is not locked.
    pub force_share: bool,
    /// It is used past the host's page cache.
    pub direct: bool,
    /// Flushes are ignored.
    pub no_flush: bool,
    /// What its header names below it is left away (`"backing": null`).
    pub alone: bool,
}

/// Options by their names, without what stands before the last dot so far. Names of files may be no
/// text.
type Options = BTreeMap<String, OsString>;

impl ImageSpec {
    /// Reads a name.
    ///
    /// # Errors
    /// What is wrong with the options in it, or which of them is not known here.
    pub fn from_name(name: &Path) -> Result<Self, String> {
        let bytes = name.as_os_str().as_bytes();
        if let Some(json) = bytes.strip_prefix(b"json:") {
            let json = std::str::from_utf8(json).map_err(|_| "is not valid UTF-8 text")?;
            return Self::from_json(json);
        }
        let path = match bytes.strip_prefix(b"file:") {
            None => name.to_owned(),
            Some(plain) => plain_name(Path::new(OsStr::from_bytes(plain))),
        };
        Ok(Self {
            path,
            ..Self::default()
        })
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(&with_double_quotes(text))
            .map_err(|error| format!("Could not parse the JSON options: {error}"))?;
        if !value.is_object() {
            return Err("Invalid JSON object given".into());
        }
        let mut options = Options::new();
        flatten("", &value, &mut options);
        Self::new(options)
    }

    /// Reads a list of options (`--image-opts`).
    ///
    /// # Errors
    /// As [`ImageSpec::from_name`].
    pub fn from_options(list: &OsStr) -> Result<Self, String> {
        let mut options = Options::new();
        for option in split_options(list) {
            let option = option.as_bytes();
            if option.is_empty() {
                continue;
            }
            let at = option.iter().position(|&byte| byte == b'=');
            let (name, value) = match at {
                Some(at) => (&option[..at], &option[at + 1..]),
                None => {
                    let option = String::from_utf8_lossy(option);
                    return Err(format!("Expected '=' after parameter '{option}'"));
                }
            };
            let name = String::from_utf8_lossy(name).into_owned();
            options.insert(name, OsString::from_vec(value.to_vec()));
        }
        Self::new(options)
    }

    fn new(mut options: Options) -> Result<Self, String> {
        let driver = take_text(&mut options, "driver")?;
        let is_protocol = |driver: &str| ["file", "host_device", "nbd"].contains(&driver);
        let mut spec = Self::default();
        let mut file = take(&mut options, "file");
        match driver.as_deref() {
            Some(protocol) if is_protocol(protocol) => {
                // The bytes of a file as they are.
                spec.format = Some(Format::Raw);
                file = std::mem::take(&mut options);
                file.insert("driver".to_owned(), protocol.into());
            }
            Some(format) => {
                let format: Result<Format, _> = format.parse();
                spec.format =
                    Some(format.map_err(|error| format!("Unknown driver '{}'", error.0))?);
            }
            None => {}
        }
        if let Some(name) = options.remove("filename") {
            file.entry("filename".to_owned()).or_insert(name);
        }
        let data_file = take(&mut options, "data-file");
        let name = driver.as_deref().unwrap_or("file");
        if matches!(spec.format, Some(Format::Qcow2 | Format::Qed)) {
            spec.alone = match options.remove("backing") {
                None => false,
                // As QEMU has it, null and an empty name say the same.
                Some(none) if none.is_empty() => true,
                Some(_) => {
                    return Err("The backing file is the one that the header names, or null".into());
                }
            };
        }
        spec.take_common(&mut options)?;
        refuse_rest(name, &options)?;
        spec.path = spec.protocol(file)?;
        if !data_file.is_empty() {
            spec.data_file = Some(spec.protocol(data_file)?);
        }
        Ok(spec)
    }

    /// The path or URI that the options of a file or an export name.
    fn protocol(&mut self, mut options: Options) -> Result<PathBuf, String> {
        let driver = take_text(&mut options, "driver")?;
        let name = options.remove("filename");
        self.take_common(&mut options)?;
        let path = match driver.as_deref() {
            None if name.is_none() => {
                return Err("A block device must be specified for \"file\"".into());
            }
            None | Some("file" | "host_device") => {
                let name = name.ok_or("The 'file' block driver requires a file name")?;
                if options
                    .remove("locking")
                    .is_some_and(|value| value == "off")
                {
                    return Err("locking=off is not supported: use force-share=on".into());
                }
                let bytes = name.as_bytes();
                let plain = bytes.strip_prefix(b"file:").unwrap_or(bytes);
                PathBuf::from(OsStr::from_bytes(plain))
            }
            Some("nbd") => match name {
                Some(uri) if is_nbd_uri(Path::new(&uri)) => PathBuf::from(uri),
                Some(other) => {
                    let other = other.display();
                    return Err(format!("'{other}' is not the URI of an NBD export"));
                }
                None => nbd_uri(&mut options)?,
            },
            Some(other) => return Err(format!("Unknown driver '{other}'")),
        };
        refuse_rest(driver.as_deref().unwrap_or("file"), &options)?;
        Ok(path)
    }

    /// Takes the options that every driver has.
    fn take_common(&mut self, options: &mut Options) -> Result<(), String> {
        options.retain(|name, _| {
            let tuning = WITHOUT_MEANING.contains(&name.as_str());
            !tuning && !name.starts_with("pass-discard-") && !name.starts_with("overlap-check")
        });
        let switches = [
            ("read-only", &mut self.read_only),
            ("force-share", &mut self.force_share),
            ("cache.direct", &mut self.direct),
            ("cache.no-flush", &mut self.no_flush),
        ];
        for (name, switch) in switches {
            if let Some(value) = take_text(options, name)? {
                *switch |= match value.as_str() {
                    "on" | "yes" | "true" => true,
                    "off" | "no" | "false" => false,
                    _ => return Err(format!("Parameter '{name}' expects 'on' or 'off'")),
                };
            }
        }
        Ok(())
    }

    /// How the image is opened that would otherwise be with `options`.
    ///
    /// # Errors
    /// Both say a format.
    pub fn with(&self, options: ImageOptions) -> Result<ImageOptions, String> {
        let format = match (self.format, options.format) {
            (Some(said), Some(other)) if said != other => {
                return Err(format!("Driver specified twice: {said} and {other}"));
            }
            (said, other) => said.or(other),
        };
        Ok(ImageOptions {
            format,
            data_file: self.data_file.clone().or(options.data_file),
            read_only: options.read_only || self.read_only,
            force_share: options.force_share || self.force_share,
            direct: options.direct || self.direct,
            no_flush: options.no_flush || self.no_flush,
            alone: options.alone || self.alone,
            ..options
        })
    }
}

/// A file's name such that nothing in it is taken for a protocol.
fn plain_name(name: &Path) -> PathBuf {
    let first = name.as_os_str().as_bytes();
    let first = first.split(|byte| *byte == b'/').next().unwrap_or_default();
    if first.contains(&b':') {
        Path::new(".").join(name)
    } else {
        name.to_owned()
    }
}

/// Takes the options below `name`.
fn take(options: &mut Options, name: &str) -> Options {
    let prefix = format!("{name}.");
    let below = |option: &String| option.strip_prefix(&prefix).map(str::to_owned);
    let taken: Options = options
        .iter()
        .filter_map(|(option, value)| Some((below(option)?, value.clone())))
        .collect();
    options.retain(|option, _| below(option).is_none());
    taken
}

/// Takes an option that is text.
fn take_text(options: &mut Options, name: &str) -> Result<Option<String>, String> {
    let text = options.remove(name).map(OsString::into_string);
    text.transpose()
        .map_err(|_| format!("Parameter '{name}' is not valid UTF-8 text"))
}

fn refuse_rest(driver: &str, options: &Options) -> Result<(), String> {
    match options.keys().next() {
        None => Ok(()),
        Some(name) => Err(format!(
            "Block format '{driver}' does not support the option '{name}'"
        )),
    }
}

/// The URI of the export that these options of QEMU's NBD client mean.
fn nbd_uri(options: &mut Options) -> Result<PathBuf, String> {
    let export = take_text(options, "export")?.unwrap_or_default();
    let mut server = take(options, "server");
    let kind = take_text(&mut server, "type")?;
    // In the old way they stand by themselves.
    let mut place = |name: &str| match take_text(&mut server, name)? {
        None => take_text(options, name),
        found => Ok(found),
    };
    let (path, host, port) = (place("path")?, place("host")?, place("port")?);
    refuse_rest("nbd", &server)?;
    let export = encode(&export);
    Ok(PathBuf::from(match (kind.as_deref(), path, host) {
        (None | Some("unix"), Some(path), None) => {
            format!("nbd+unix:///{export}?socket={}", encode(&path))
        }
        (None | Some("inet"), None, Some(host)) => {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                encode(&host)
            };
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            format!("nbd://{host}{port}/{export}")
        }
        (_, Some(_), Some(_)) => {
            return Err("path and host may not be used at the same time".into());
        }
        _ => return Err("NBD server address missing".into()),
    }))
}

/// Percent-encodes what may not stand in a URI as it is.
fn encode(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(byte);
    let encoded = text.bytes().map(|byte| {
        if plain(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    encoded.collect()
}

/// Names the values within `value`, whose name is `name`, as a list of options would.
fn flatten(name: &str, value: &Value, options: &mut Options) {
    let inner = |key: &str| match name {
        "" => key.to_owned(),
        name => format!("{name}.{key}"),
    };
    let text = match value {
        Value::Object(members) => {
            for (key, value) in members {
                flatten(&inner(key), value, options);
            }
            return;
        }
        Value::Array(elements) => {
            for (n, value) in elements.iter().enumerate() {
                flatten(&inner(&n.to_string()), value, options);
            }
            return;
        }
        Value::Null => String::new(),
        Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
    };
    options.insert(name.to_owned(), text.into());
}

/// QEMU's JSON has strings in single quotes, too.
fn with_double_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (within, c) {
            (None, '\'' | '"') => {
                within = Some(c);
                out.push('"');
            }
            (Some(quote), c) if c == quote => {
                within = None;
                out.push('"');
            }
            (Some(_), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            (_, c) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
