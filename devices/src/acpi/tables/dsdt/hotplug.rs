//! What a guest runs when PCI devices come and go: a device for each slot, of whose changes it
//! can be notified and which it can eject, and the handler of the general-purpose event.

use acpi_tables::aml::{
    And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
    Method, MethodCall, Name, Notify, ONE, OpRegion, OpRegionSpace, Path, Scope, ShiftLeft, Store,
    ZERO,
};
use acpi_tables::{Aml, aml::Arg};

use super::{Raw, encode, narrow};
use crate::acpi::hotplug::SlotPorts;

/// Slots that devices can be plugged into; the bridges are below them.
const SLOTS: std::ops::Range<u8> = 2..32;

/// `Notify` values (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// For the scope of the root bus.
pub(super) fn slots() -> Vec<u8> {
    let mut aml = registers();
    for slot in SLOTS {
        aml.extend(device(slot));
    }
    aml.extend(look());
    aml
}

/// For the root of the name space: event 1, by edge, has the bus looked at.
pub(super) fn handler() -> Vec<u8> {
    let look = MethodCall::new(Path::new("\\_SB_.PCI0.PCNT"), Vec::new());
    let method = Method::new("_E01".into(), 0, true, vec![&look]);
    encode(&Scope::new(Path::new("\\_GPE"), vec![&method]))
}

/// The first three registers, and `PCEJ`, which ejects a slot.
fn registers() -> Vec<u8> {
    let base: u32 = narrow(SlotPorts::BASE);
    let mut aml = encode(&OpRegion::new(
        "PCST".into(),
        OpRegionSpace::SystemIO,
        &base,
        &12u8,
    ));
    aml.extend(encode(&Field::new(
        "PCST".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        ["PCIU", "PCID", "B0EJ"]
            .map(|name| FieldEntry::Named(letters(name), 32))
            .to_vec(),
    )));
    let bit = ShiftLeft::new(&ZERO, &ONE, &Arg(0));
    let register = Path::new("B0EJ");
    let eject = Store::new(&register, &bit);
    aml.extend(encode(&Method::new("PCEJ".into(), 1, true, vec![&eject])));
    aml
}

fn letters(name: &str) -> [u8; 4] {
    let mut letters = [b'_'; 4];
    for (to, from) in letters.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    letters
}

/// The name of a slot's device, by its device and function numbers.
fn name(slot: u8) -> String {
    format!("S{:02X}_", slot << 3)
}

fn device(slot: u8) -> Vec<u8> {
    let address = Name::new("_ADR".into(), &(u32::from(slot) << 16));
    let number = Name::new("_SUN".into(), &slot);
    let eject = MethodCall::new(Path::new("PCEJ"), vec![&slot]);
    let eject = Method::new("_EJ0".into(), 1, true, vec![&eject]);
    let name = name(slot);
    encode(&Device::new(
        name.as_str().into(),
        vec![&address, &number, &eject],
    ))
}

/// `PCNT`: notifies the guest's driver of each slot that a device has come into or is to leave.
fn look() -> Vec<u8> {
    let (up, down) = (Path::new("PCIU"), Path::new("PCID"));
    let (came, goes) = (Store::new(&Local(0), &up), Store::new(&Local(1), &down));
    let mut steps = vec![Raw(encode(&came)), Raw(encode(&goes))];
    for slot in SLOTS {
        let bit = 1u32 << slot;
        let device = name(slot);
        let device = Path::new(&device);
        for (local, value) in [(Local(0), DEVICE_CHECK), (Local(1), EJECT_REQUEST)] {
            let is_set = And::new(&ZERO, &local, &bit);
            let notify = Notify::new(&device, &value);
            steps.push(Raw(encode(&If::new(&is_set, vec![&notify]))));
        }
    }
    let steps: Vec<&dyn Aml> = steps.iter().map(|step| step as &dyn Aml).collect();
    encode(&Method::new("PCNT".into(), 0, true, steps))
}
