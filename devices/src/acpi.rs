//! ACPI: the tables that tell a guest what machine it runs on, and the registers for power.
//!
//! ACPI mode is always on, also where firmware runs first, hence no SMI command port. The
//! power button is the fixed-hardware one, which needs no code in the tables.

pub mod hotplug;
pub mod pm;
pub mod tables;

/// The GSI of the system control interrupt; level-triggered, active high.
pub const SCI_GSI: u32 = 9;
