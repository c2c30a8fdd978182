//! The DSDT: sleep states, the PCI host bridge with its windows and interrupt routing, and the
//! legacy devices that have no other way to be found.

mod hotplug;

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, IO, If, Interrupt, Method,
        Name, Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store,
    },
    sdt::Sdt,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, narrow};
use crate::{
    acpi::{
        hotplug::{EventPorts, SlotPorts},
        pm::{PmBlock, SLEEP_TYPE_S3, SLEEP_TYPE_S5},
    },
    fw_cfg::FwCfg,
    legacy::{pvpanic::PvPanic, rtc::Rtc, serial::SerialPort},
    pci::{
        self,
        intx::{intx_gsi, intx_irq},
    },
};

const DEVICES: u8 = 32;
const PINS: u8 = 4;

/// The DSDT.
pub fn build() -> Sdt {
    const HEADER: u32 = 36;
    const REVISION: u8 = 2;
    let mut aml = Vec::new();
    for (name, sleep_type) in [("_S3_", SLEEP_TYPE_S3), ("_S5_", SLEEP_TYPE_S5)] {
        let state = Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]);
        Name::new(name.into(), &state).to_aml_bytes(&mut aml);
    }
    aml.extend(interrupt_model());
    let devices = [
        pci_root(),
        fixed_ports(),
        serial(),
        clock(),
        panic(),
        fw_cfg(),
    ];
    let devices: Vec<Raw> = devices.into_iter().map(Raw).collect();
    let children = devices.iter().map(|d| d as &dyn Aml).collect();
    Scope::new(Path::new("\\_SB_"), children).to_aml_bytes(&mut aml);
    aml.extend(hotplug::handler());
    let mut dsdt = Sdt::new(
        *b"DSDT",
        HEADER,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    dsdt.append_slice(&aml);
    dsdt
}

/// AML that is already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn encode(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// A device that consists of an id, a unique id and its resources.
fn device(name: &str, id: &str, unique: u8, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &unique);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    encode(&Device::new(name.into(), vec![&hid, &uid, &crs]))
}

/// `len` ports from `base` on.
fn ports(base: u64, len: u64) -> IO {
    IO::new(narrow(base), narrow(base), 1, narrow(len))
}

fn pci_root() -> Vec<u8> {
    let last_port: u16 = narrow(pci::IO_WINDOW_BASE + pci::IO_WINDOW_LEN - 1);
    let first: u32 = narrow(pci::MMIO_WINDOW_BASE);
    let last: u32 = narrow(pci::MMIO_WINDOW_BASE + pci::MMIO_WINDOW_LEN - 1);
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &0u8);
    let bus = Name::new("_BBN".into(), &0u8);
    let only_bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = ports(pci::CONFIG_PORTS_BASE, pci::CONFIG_PORTS_LEN);
    // The fixed ports of the IDE function and of ISA devices, then those for BARs.
    let ports_below = AddressSpace::new_io(0u16, narrow(pci::CONFIG_PORTS_BASE - 1), None);
    let ports_above = AddressSpace::new_io(narrow(pci::IO_WINDOW_BASE), last_port, None);
    let memory = AddressSpace::new_memory(cacheable, true, first, last, None);
    let resources: Vec<&dyn Aml> = vec![&only_bus, &config, &ports_below, &ports_above, &memory];
    let resources = ResourceTemplate::new(resources);
    let crs = Name::new("_CRS".into(), &resources);
    let by_io_apic = Name::new("PRTA".into(), &interrupt_routing(intx_gsi));
    let by_8259 = |device, pin| intx_irq(device, pin).into();
    let by_8259 = Name::new("PRTP".into(), &interrupt_routing(by_8259));
    let (model, table) = (Path::new(MODEL), Path::new("PRTA"));
    let (chosen, other) = (Return::new(&table), Path::new("PRTP"));
    let choose = If::new(&model, vec![&chosen]);
    let other = Return::new(&other);
    let prt = Method::new("_PRT".into(), 0, false, vec![&choose, &other]);
    let slots = Raw(hotplug::slots());
    let children: Vec<&dyn Aml> = vec![&hid, &uid, &bus, &crs, &by_io_apic, &by_8259, &prt, &slots];
    encode(&Device::new("PCI0".into(), children))
}

/// Which interrupt controllers the guest uses, as it says by `_PIC`: 0 the 8259s, 1 the I/O APIC.
const MODEL: &str = "PICM";

/// Takes note of it (ACPI 6.5, 5.8.1).
fn interrupt_model() -> Vec<u8> {
    let model = Path::new(MODEL);
    let note = Store::new(&model, &Arg(0));
    let mut aml = encode(&Name::new(MODEL.into(), &0u8));
    aml.extend(encode(&Method::new("_PIC".into(), 1, false, vec![&note])));
    aml
}

/// Every pin of every device on bus 0, without interrupt link devices: {address, pin, 0, GSI}
/// (ACPI 6.5, 6.2.13).
fn interrupt_routing(gsi: impl Fn(u8, u8) -> u32) -> PackageBuilder {
    const ANY_FUNCTION: u32 = 0xffff;
    let mut routing = PackageBuilder::new();
    for device in 0..DEVICES {
        for pin in 0..PINS {
            let address = u32::from(device) << 16 | ANY_FUNCTION;
            let gsi = gsi(device, pin);
            routing.add_element(&Package::new(vec![&address, &pin, &0u8, &gsi]));
        }
    }
    routing
}

/// Keeps the ports of power management and of hot plug from being assigned to others.
fn fixed_ports() -> Vec<u8> {
    let ranges = [
        ports(PmBlock::BASE, PmBlock::LEN),
        ports(SlotPorts::BASE, SlotPorts::LEN),
        ports(EventPorts::BASE, EventPorts::LEN),
    ];
    let ranges = ranges.iter().map(|range| range as &dyn Aml).collect();
    device("PMIO", "PNP0C02", 0, ranges)
}

fn serial() -> Vec<u8> {
    let ports = ports(SerialPort::COM1, SerialPort::LEN);
    let irq = Interrupt::new(true, true, false, false, SerialPort::COM1_IRQ);
    device("COM1", "PNP0501", 1, vec![&ports, &irq])
}

fn clock() -> Vec<u8> {
    let ports = ports(Rtc::BASE, Rtc::LEN);
    let irq = Interrupt::new(true, true, false, false, Rtc::IRQ);
    device("RTC_", "PNP0B00", 0, vec![&ports, &irq])
}

/// The panic device. Its id is no EISA id, but a string.
fn panic() -> Vec<u8> {
    let ports = ports(PvPanic::PORT, PvPanic::LEN);
    let hid = Name::new("_HID".into(), &PvPanic::ACPI_ID);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports]));
    encode(&Device::new("PEVT".into(), vec![&hid, &crs]))
}

/// Where a guest finds what firmware asks, too.
fn fw_cfg() -> Vec<u8> {
    /// Present, enabled and working, and nothing to be shown to people.
    const STATUS: u8 = 0b1011;
    let ports = ports(FwCfg::BASE, FwCfg::LEN);
    let hid = Name::new("_HID".into(), &FwCfg::ACPI_ID);
    let status = Name::new("_STA".into(), &STATUS);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports]));
    encode(&Device::new("FWCF".into(), vec![&hid, &status, &crs]))
}
