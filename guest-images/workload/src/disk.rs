//! A block device of the guest, opened so that no cache of the guest's kernel is in between.

use crate::report::Failure;
use crate::stream::{LANES_PER_DISK, Lane, Span, UNIT_BYTES};
use crate::unit::Unit;
use crate::{boot, stream};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;
use zerocopy::IntoBytes;

const DEVICE_TIMEOUT: Duration = Duration::from_secs(60);

/// One of `strata.disks`.
pub struct Disk {
    /// Its kernel name.
    pub name: String,
    /// Its index in `strata.disks`.
    pub index: u32,
    /// Whole units on it.
    pub units: u32,
    file: File,
}

impl Disk {
    /// Opens all disks, in order.
    pub fn open_all(names: &[String]) -> Result<Vec<Disk>, Failure> {
        let disks = names.iter().zip(0..).map(|(name, index)| {
            Disk::open(name, index).map_err(|why| Failure::Setup(format!("disk {name}: {why}")))
        });
        disks.collect()
    }

    fn open(name: &str, index: u32) -> Result<Disk, String> {
        boot::wait_for_device(name, DEVICE_TIMEOUT)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        let mut file = options
            .open(format!("/dev/{name}"))
            .map_err(|e| e.to_string())?;
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|e| format!("its size: {e}"))?;
        let units = u32::try_from(bytes / UNIT_BYTES as u64).map_err(|_| "too large")?;
        let disk = Disk {
            name: name.to_owned(),
            index,
            units,
            file,
        };
        if disk.lanes().any(|lane| !lane.is_usable()) {
            let least = stream::EXTENT_UNITS * LANES_PER_DISK;
            return Err(format!(
                "{units} units of 4 KiB; the workload needs {least}"
            ));
        }
        Ok(disk)
    }

    /// The disk's lanes.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let (disk, disk_units) = (self.index, self.units);
        (0..LANES_PER_DISK).map(move |number| Lane {
            disk,
            number,
            disk_units,
        })
    }

    /// Writes the first `span.count` units of `data`.
    pub fn write(&self, span: Span, data: &[Unit]) -> Result<(), Failure> {
        let bytes = data[..span.count as usize].as_bytes();
        let result = self.file.write_all_at(bytes, span.offset());
        result.map_err(|error| self.io_failure("write", Some(span), error))
    }

    /// Reads into the first `span.count` units of `data`.
    pub fn read(&self, span: Span, data: &mut [Unit]) -> Result<(), Failure> {
        let bytes = data[..span.count as usize].as_mut_bytes();
        let result = self.file.read_exact_at(bytes, span.offset());
        result.map_err(|error| self.io_failure("read", Some(span), error))
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), Failure> {
        self.file
            .sync_data()
            .map_err(|error| self.io_failure("flush", None, error))
    }

    fn io_failure(&self, request: &'static str, span: Option<Span>, error: io::Error) -> Failure {
        Failure::Io {
            disk: self.name.clone(),
            request,
            span,
            error,
        }
    }
}
