//! What the guest sees: PCI, virtio-blk, IDE and the legacy devices of a PC.
//!
//! A device has up to two halves. The front half answers register accesses on the vCPU threads
//! ([`bus::BusDevice`]) and does no disk I/O. The worker half lives on the device thread as an
//! `event_manager::MutEventSubscriber`, holds the [`strata_block::disk::Disk`] and finishes
//! requests. They share guest memory, eventfds, and a little state each: IDE its register file,
//! virtio its status and interrupts ([`virtio::state::DeviceState`]). Nothing else.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

pub mod acpi;
pub mod bus;
pub mod checksum;
pub mod fw_cfg;
mod guest_memory;
pub mod host;
pub mod ide;
pub mod legacy;
pub mod pci;
pub mod smbios;
pub mod vhost_user;
pub mod virtio;
