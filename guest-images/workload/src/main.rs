//! `strata-workload`: writes and verifies self-describing blocks inside the guest.
fn main() {}
