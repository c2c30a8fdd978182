//! `strata`: boots guests on layered disks.
fn main() {}
