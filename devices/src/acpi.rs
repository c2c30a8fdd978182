//! ACPI: the tables that describe the machine to its guest, and the registers for power.
//!
//! ACPI mode is always on, also where firmware runs first, hence no SMI command port. The
//! power button is the fixed-hardware one, which needs no code in the tables.

pub mod hotplug;
pub mod pm;
pub mod tables;

/// The GSI of the system control interrupt; level-triggered, active high.
pub const SCI_GSI: u32 = 9;

/// Copies from a block of registers what an access at `offset` reads; ones behind its end.
fn read_image(image: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    for (i, byte) in data.iter_mut().enumerate() {
        let at = from.checked_add(i);
        *byte = at.and_then(|at| image.get(at)).copied().unwrap_or(0xff);
    }
}
