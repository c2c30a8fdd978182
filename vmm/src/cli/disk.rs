//! The value of `--disk`: `key=value,key=value`, a comma inside a value doubled.

mod throttling;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, time::Duration};

use clap::builder::{OsStringValueParser, TypedValueParser};
use strata_block::engine::{DetectZeroes, ErrorPolicy, Format, OnRequestError, Throttling};
use strata_devices::ide::Media;
use strata_storage::Aio;

use super::keys::{self, choose, on_off};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interface {
    /// virtio-blk over PCI.
    #[default]
    Virtio,
    /// PIIX3 IDE: two channels with two disks each.
    Ide,
    /// Not at all: there for the monitor's commands.
    None,
}

/// Host cache behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// The host's page cache; the guest flushes.
    #[default]
    Writeback,
    /// Past the host's page cache; the guest flushes.
    None,
    /// Every write is durable when it completes.
    Writethrough,
    /// Flushes are ignored.
    Unsafe,
}

/// One disk as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskOption {
    /// The image; empty for a CD drive without a disc.
    pub file: PathBuf,
    /// Its format, where it was given.
    pub format: Option<Format>,
    /// The format of a backing file whose chain does not say it.
    pub backing_format: Option<Format>,
    /// Directories in which backing files may lie, where they were given.
    pub backing_folders: Option<Vec<PathBuf>>,
    /// How it is attached.
    pub interface: Interface,
    /// What kind of drive it is for the guest: a CD drive only on IDE.
    pub media: Media,
    /// The disk's name, where one was given.
    pub id: Option<String>,
    /// The top layer's node name, where one was given.
    pub node_name: Option<String>,
    /// Writes are refused.
    pub read_only: bool,
    /// Whether what is written is thrown away in the end, where that was said.
    pub snapshot: Option<bool>,
    /// Host cache behaviour.
    pub cache: Cache,
    /// What carries out calls that would block.
    pub aio: Aio,
    /// The guest's discards free space.
    pub discard: bool,
    /// What is done with zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Serial number shown to the guest.
    pub serial: String,
    /// Bytes in the sectors that the guest counts in, where it was said.
    pub logical_block_size: Option<u32>,
    /// Bytes in the sectors that the guest should write as a whole, where it was said.
    pub physical_block_size: Option<u32>,
    /// World wide name, where one was given.
    pub wwn: Option<u64>,
    /// Whether the guest takes it for one that rotates, where it was said.
    pub rotational: Option<bool>,
    /// How long requests wait for an NBD server that is gone.
    pub reconnect_delay: Option<Duration>,
    /// Its place in the order in which firmware tries disks; the lowest comes first.
    pub boot_index: Option<u32>,
    /// What is done about reads that fail, where it was said.
    pub rerror: Option<OnRequestError>,
    /// What is done about other requests that fail, where it was said.
    pub werror: Option<OnRequestError>,
    /// What the guest may ask of it in a second.
    pub throttling: Throttling,
}

impl DiskOption {
    /// What is done about errors: as with QEMU, they are reported to the guest, but where there is
    /// no room for what it writes it waits.
    pub fn errors(&self) -> ErrorPolicy {
        ErrorPolicy {
            on_read: self.rerror.unwrap_or(ErrorPolicy::QEMU.on_read),
            on_write: self.werror.unwrap_or(ErrorPolicy::QEMU.on_write),
        }
    }

    /// Whether it is a CD drive without a disc.
    pub fn is_empty(&self) -> bool {
        self.file.as_os_str().is_empty()
    }

    /// Only a CD drive goes without a file, and then nothing can be said of one.
    fn check_file(&self) -> Result<(), String> {
        if !self.is_empty() {
            return Ok(());
        }
        if self.media != Media::Cdrom {
            return Err("file=PATH is missing".into());
        }
        for (key, given) in [
            ("format", self.format.is_some()),
            ("node-name", self.node_name.is_some()),
            ("backing-format", self.backing_format.is_some()),
        ] {
            if given {
                return Err(format!("{key}= is about a file: file=PATH is missing"));
            }
        }
        Ok(())
    }

    /// What the drive is to be must be possible on its interface.
    fn check_drive(&self) -> Result<(), String> {
        let is_ide = self.interface == Interface::Ide;
        let is_cdrom = self.media == Media::Cdrom;
        if is_cdrom && !is_ide {
            return Err("media=cdrom is an IDE drive: add if=ide".into());
        }
        if is_ide && self.logical_block_size.is_some_and(|size| size != 512) {
            return Err(
                "logical-block-size=: IDE has only sectors of 512 bytes: use if=virtio".into(),
            );
        }
        for (key, given) in [
            ("wwn", self.wwn.is_some()),
            ("rotational", self.rotational.is_some()),
        ] {
            if given && !is_ide {
                return Err(format!(
                    "{key}= is for if=ide: virtio-blk has no such property"
                ));
            }
        }
        for (key, given) in [
            ("physical-block-size", self.physical_block_size.is_some()),
            ("rotational", self.rotational.is_some()),
        ] {
            if given && is_cdrom {
                return Err(format!("{key}= is for disks, not for media=cdrom"));
            }
        }
        let logical = self.logical_block_size.unwrap_or(512);
        match self.physical_block_size {
            Some(physical) if physical < logical => Err(format!(
                "physical-block-size={physical} is less than logical-block-size={logical}"
            )),
            _ => Ok(()),
        }
    }

    /// A key that was given and means nothing where no device has the disk.
    pub fn key_of_device(&self) -> Option<&'static str> {
        let given = [
            ("bootindex", self.boot_index.is_some()),
            ("logical-block-size", self.logical_block_size.is_some()),
            ("physical-block-size", self.physical_block_size.is_some()),
            ("wwn", self.wwn.is_some()),
            ("rotational", self.rotational.is_some()),
            ("rerror", self.rerror.is_some()),
            ("werror", self.werror.is_some()),
            ("throttling", self.throttling.limits.is_set()),
        ];
        given.iter().find(|(_, given)| *given).map(|(key, _)| *key)
    }
}

const KNOWN: &str = "file, format, if, media, id, node-name, readonly, snapshot, cache, aio, discard, \
                     detect-zeroes, serial, iothread, backing-format, backing-folders, \
                     reconnect-delay, bootindex, rerror, werror, logical-block-size, \
                     physical-block-size, wwn, rotational, throttling.*";

/// Parses it.
///
/// # Errors
/// What is wrong, with what would be right.
pub fn parse(text: &OsStr) -> Result<DiskOption, String> {
    let mut disk = DiskOption::default();
    for (key, value) in keys::native_pairs(text)? {
        match key.as_str() {
            "file" => disk.file = value.into(),
            "backing-folders" => {
                let names = value.as_bytes().split(|&byte| byte == b':');
                let paths = names.map(|name| OsStr::from_bytes(name).into());
                disk.backing_folders = Some(paths.collect());
            }
            _ => {
                let text = value.to_str();
                let text = text.ok_or_else(|| format!("{key}= is not valid UTF-8 text"))?;
                set(&mut disk, &key, text)?;
            }
        }
    }
    throttling::check(&disk.throttling)?;
    disk.check_file()?;
    disk.check_drive()?;
    if disk.media == Media::Cdrom {
        disk.read_only = true;
        // Nothing is written that could be thrown away.
        disk.snapshot.get_or_insert(false);
    }
    Ok(disk)
}

/// How clap calls [`parse`]: names of files need not be text.
pub fn parser() -> impl TypedValueParser<Value = DiskOption> {
    OsStringValueParser::new().try_map(|text| parse(&text))
}

/// The same for a disk that is nothing without a file.
pub fn parser_of_file() -> impl TypedValueParser<Value = DiskOption> {
    OsStringValueParser::new().try_map(|text| match parse(&text) {
        Ok(disk) if disk.is_empty() => Err("file=PATH is missing".to_owned()),
        parsed => parsed,
    })
}

/// Sets one key whose value is text.
fn set(disk: &mut DiskOption, key: &str, value: &str) -> Result<(), String> {
    match key {
        "format" => disk.format = Some(format(key, value)?),
        "backing-format" => disk.backing_format = Some(format(key, value)?),
        "if" => {
            let all = [
                ("virtio", Interface::Virtio),
                ("ide", Interface::Ide),
                ("none", Interface::None),
            ];
            disk.interface = choose(key, value, &all)?;
        }
        "media" => {
            disk.media = choose(
                key,
                value,
                &[("disk", Media::Disk), ("cdrom", Media::Cdrom)],
            )?;
        }
        "id" => disk.id = Some(name(key, value)?),
        "node-name" => disk.node_name = Some(name(key, value)?),
        "readonly" => disk.read_only = on_off(key, value)?,
        "snapshot" => disk.snapshot = Some(on_off(key, value)?),
        "cache" => {
            let all = [
                ("writeback", Cache::Writeback),
                ("none", Cache::None),
                ("writethrough", Cache::Writethrough),
                ("unsafe", Cache::Unsafe),
            ];
            disk.cache = choose(key, value, &all)?;
        }
        "aio" => {
            let all = [("threads", Aio::Threads), ("io_uring", Aio::IoUring)];
            disk.aio = choose(key, value, &all)?;
        }
        "discard" => {
            disk.discard = choose(key, value, &[("ignore", false), ("unmap", true)])?;
        }
        "detect-zeroes" => {
            let all = [
                ("off", DetectZeroes::Off),
                ("on", DetectZeroes::On),
                ("unmap", DetectZeroes::Unmap),
            ];
            disk.detect_zeroes = choose(key, value, &all)?;
        }
        "reconnect-delay" => {
            let bad = |_| format!("{key}={value}: expected a number of seconds");
            disk.reconnect_delay = Some(Duration::from_secs(
                value.parse::<u32>().map_err(bad)?.into(),
            ));
        }
        "bootindex" => {
            let bad = |_| format!("{key}={value}: expected a number from 0 on");
            disk.boot_index = Some(value.parse().map_err(bad)?);
        }
        "rerror" => {
            let all = [
                ("report", OnRequestError::Report),
                ("ignore", OnRequestError::Ignore),
                ("stop", OnRequestError::Stop),
            ];
            disk.rerror = Some(choose(key, value, &all)?);
        }
        "werror" => {
            let all = [
                ("report", OnRequestError::Report),
                ("ignore", OnRequestError::Ignore),
                ("enospc", OnRequestError::Enospc),
                ("stop", OnRequestError::Stop),
            ];
            disk.werror = Some(choose(key, value, &all)?);
        }
        "serial" => disk.serial = value.into(),
        "logical-block-size" => {
            let all = [("512", 512), ("4096", 4096)];
            disk.logical_block_size = Some(choose(key, value, &all)?);
        }
        "physical-block-size" => {
            disk.physical_block_size = Some(physical_block_size(key, value)?);
        }
        "wwn" => disk.wwn = Some(wwn(key, value)?),
        "rotational" => disk.rotational = Some(on_off(key, value)?),
        "iothread" => {
            return Err("iothread is not supported yet: all disks share one device thread".into());
        }
        _ if key.starts_with(throttling::PREFIX) => {
            let key = &key[throttling::PREFIX.len()..];
            throttling::set(&mut disk.throttling, key, value)?;
        }
        _ => return Err(format!("unknown key '{key}'; known keys: {KNOWN}")),
    }
    Ok(())
}

fn format(key: &str, value: &str) -> Result<Format, String> {
    let all = [
        ("qcow2", Format::Qcow2),
        ("raw", Format::Raw),
        ("qed", Format::Qed),
    ];
    choose(key, value, &all)
}

/// A power of two, as large as QEMU allows it at most.
fn physical_block_size(key: &str, value: &str) -> Result<u32, String> {
    const SIZES: std::ops::RangeInclusive<u32> = 512..=2 << 20;
    let size = value.parse::<u32>().ok();
    size.filter(|size| size.is_power_of_two() && SIZES.contains(size))
        .ok_or_else(|| {
            format!("{key}={value}: expected a power of two from 512 to 2097152, in bytes")
        })
}

/// 64 bits, in hexadecimal with 0x in front or in decimal.
fn wwn(key: &str, value: &str) -> Result<u64, String> {
    let digits = value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"));
    let name = match digits {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    name.ok().filter(|&name| name != 0).ok_or_else(|| {
        format!("{key}={value}: expected a number of 64 bits such as 0x5000c50015ea71ac")
    })
}

/// Names as QEMU allows them: a letter, then letters, digits, '-', '.', '_'.
fn name(key: &str, value: &str) -> Result<String, String> {
    let mut chars = value.chars();
    let well_formed = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if !well_formed {
        return Err(format!(
            "{key}={value}: a name is a letter followed by letters, digits, '-', '.' or '_'"
        ));
    }
    Ok(value.to_owned())
}

/// What distinguishes the default names of disks without `id`: `virtio0`, `ide0-hd1`, `ide1-cd0`,
/// `none0`.
#[derive(Debug, Default)]
pub struct Numbering {
    virtio: usize,
    ide: usize,
    none: usize,
}

/// A disk's place among those with the same interface, counted from 0, and its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Place among the disks with the same interface.
    pub index: usize,
    /// Given or default name.
    pub id: String,
}

impl Numbering {
    /// The next disk's place and name.
    pub fn place(&mut self, disk: &DiskOption) -> Place {
        let (counter, default): (_, fn(usize) -> String) = match disk.interface {
            Interface::Virtio => (&mut self.virtio, |n| format!("virtio{n}")),
            Interface::Ide => match disk.media {
                Media::Disk => (&mut self.ide, |n| format!("ide{}-hd{}", n / 2, n % 2)),
                Media::Cdrom => (&mut self.ide, |n| format!("ide{}-cd{}", n / 2, n % 2)),
            },
            Interface::None => (&mut self.none, |n| format!("none{n}")),
        };
        let index = *counter;
        *counter += 1;
        let id = disk.id.clone().unwrap_or_else(|| default(index));
        Place { index, id }
    }
}

#[cfg(test)]
mod tests;
