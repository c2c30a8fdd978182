//! A small ATA driver against the controller, with a disk in memory behind it.

mod cdrom;
mod commands;
mod dma;
mod hostile;
mod lifecycle;
mod media;
mod pio;
mod rig;
mod smart;
