//! What firmware learns of the machine, by fw_cfg: its size, its tables, and what to boot first.

use std::rc::Rc;

use strata_block::{
    disk::{Disk, Op, Request},
    engine::Engine,
};
use strata_devices::{
    acpi,
    fw_cfg::FwCfgItems,
    legacy::serial::SerialPort,
    smbios::{Described, Smbios},
};
use strata_exec::mem::{SgList, to_usize};

use super::disks;
use crate::{
    boot::RealModeKernel,
    cli::{
        MachineArgs, RunArgs,
        disk::{DiskOption, Interface, Numbering},
    },
    layout,
};

/// A disk that firmware can find.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Its place, as firmware calls it.
    path: String,
    /// The user's wish.
    boot_index: Option<u32>,
    /// There is something on it that says it can be booted.
    bootable: bool,
}

/// The disks in the order in which firmware is to try them.
pub struct BootOrder(Vec<Candidate>);

impl BootOrder {
    /// Those with a boot index by their index, then those that can be booted, then the others;
    /// otherwise as they were given. The disks are open.
    pub fn of(engine: &Rc<Engine>, disks: &[DiskOption]) -> Self {
        let mut numbering = Numbering::default();
        let mut candidates = Vec::new();
        for option in disks {
            let place = numbering.place(option);
            let path = match option.interface {
                Interface::Virtio => disks::virtio_device(place.index)
                    .map(|device| format!("/pci@i0cf8/scsi@{device:x}/disk@0,0")),
                Interface::Ide => {
                    let (channel, drive) = (place.index / 2, place.index % 2);
                    Some(format!("/pci@i0cf8/ide@1,1/drive@{channel}/disk@{drive}"))
                }
                Interface::None => None,
            };
            let disk = engine.find_disk(&place.id).map(|disk| Disk::new(disk));
            if let (Some(path), Some(disk)) = (path, disk) {
                candidates.push(Candidate {
                    path,
                    boot_index: option.boot_index,
                    bootable: is_bootable(engine, &disk),
                });
            }
        }
        Self(candidates).sorted()
    }

    fn sorted(mut self) -> Self {
        let rank = |disk: &Candidate| match disk.boot_index {
            Some(index) => (0, index),
            None => (1, u32::from(!disk.bootable)),
        };
        self.0.sort_by_key(rank);
        self
    }

    /// A boot index that two of them have.
    pub fn index_given_twice(&self) -> Option<u32> {
        let mut pairs = self.0.windows(2);
        let twice = pairs.find(|pair| pair[0].boot_index == pair[1].boot_index)?;
        twice[0].boot_index
    }

    /// Whether one of them can be booted.
    pub fn leads_somewhere(&self) -> bool {
        self.0.iter().any(|disk| disk.bootable)
    }

    /// The file `bootorder`. A kernel comes first.
    fn file(&self, has_kernel: bool) -> Vec<u8> {
        let kernel = has_kernel.then(|| format!("/rom@{}", RealModeKernel::ROM));
        let disks = self.0.iter().map(|disk| disk.path.as_str());
        let paths: Vec<_> = kernel.as_deref().into_iter().chain(disks).collect();
        let mut file = paths.join("\n").into_bytes();
        file.push(0);
        file
    }
}

const SECTOR: u64 = 512;
/// What ends a boot sector.
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Where a CD's boot record is, and how it begins (El Torito 1.0, figure 7).
const BOOT_RECORD: u64 = 17 * 2048;
const BOOT_RECORD_START: &[u8] = b"\0CD001\x01EL TORITO SPECIFICATION";

/// Whether firmware would find something to boot.
fn is_bootable(engine: &Rc<Engine>, disk: &Disk) -> bool {
    let has = |at: u64, offset: usize, mark: &[u8]| {
        read(engine, disk, at).is_some_and(|bytes| bytes[offset..].starts_with(mark))
    };
    has(0, to_usize(SECTOR) - 2, &BOOT_SIGNATURE) || has(BOOT_RECORD, 0, BOOT_RECORD_START)
}

/// A piece of the disk with the sector at `offset`, if the disk is so long and can be read.
fn read(engine: &Rc<Engine>, disk: &Disk, offset: u64) -> Option<Vec<u8>> {
    let info = disk.info();
    // Some disks have larger sectors.
    let unit = u64::from(info.block_size).max(SECTOR);
    let start = offset / unit * unit;
    if start.checked_add(unit)? > info.size {
        return None;
    }
    let data = SgList::zeroed(usize::try_from(unit).ok()?);
    let request = Request {
        op: Op::Read,
        offset: start,
        len: unit,
        data: data.clone(),
    };
    let disk = disk.clone();
    let done = engine
        .exec()
        .block_on(async move { disk.run(request).await });
    done.ok()?;
    Some(
        data.to_vec()
            .split_off(usize::try_from(offset - start).ok()?),
    )
}

/// All that a machine with these disks says of itself, with the kernel that comes before them.
pub fn items(args: &RunArgs, order: &BootOrder, kernel: Option<RealModeKernel>) -> FwCfgItems {
    let MachineArgs { memory, cpus } = args.machine;
    let mut items = FwCfgItems::new(memory, cpus);
    items.add_file("etc/e820", e820(memory));
    items.add_file("bootorder", order.file(kernel.is_some()));
    // Where firmware and boot loaders show what they would show on a display.
    let port = u16::try_from(SerialPort::COM1).expect("ports have 16 bits");
    items.add_file("etc/sercon-port", port.to_le_bytes().to_vec());
    items.add_file("etc/system-states", acpi::pm::sleep_states().to_vec());
    // When nothing can be booted: stay there.
    items.add_file("etc/boot-fail-wait", u32::MAX.to_le_bytes().to_vec());
    for (name, content) in acpi::tables::files(cpus) {
        items.add_file(name, content);
    }
    let Smbios { anchor, tables } = smbios(&args.machine);
    items.add_file("etc/smbios/smbios-anchor", anchor);
    items.add_file("etc/smbios/smbios-tables", tables);
    if let Some(kernel) = kernel {
        kernel.describe(&mut items);
    }
    items
}

/// What a machine is called, and how large it is.
pub fn smbios(machine: &MachineArgs) -> Smbios {
    let below_4g = layout::low_memory(machine.memory);
    Smbios::build(&Described {
        cpus: machine.cpus,
        below_4g,
        above_4g: machine.memory - below_4g,
    })
}

/// The memory that there is; firmware sees to what lies below 1 MiB.
fn e820(size: u64) -> Vec<u8> {
    let ranges = layout::memory_ranges(size).into_iter();
    let usable = ranges.map(|(start, len)| (start, len, layout::RangeKind::Usable));
    let kvm = (
        layout::IDENTITY_MAP,
        layout::KVM_PAGES_LEN,
        layout::RangeKind::Reserved,
    );
    let mut file = Vec::new();
    for (start, len, kind) in usable.chain([kvm]) {
        file.extend(start.to_le_bytes());
        file.extend(len.to_le_bytes());
        file.extend((kind as u32).to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests;
