//! virtio-blk as a guest's driver meets it: through configuration ports, a BAR, rings in memory
//! and interrupts.

mod bench;
mod disk;
mod driver;
mod framing;
mod fuzz;
mod hostile;
mod requests;
mod reset;
mod rings;
mod threads;
mod transport;
