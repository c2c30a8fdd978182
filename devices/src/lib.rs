//! What the guest sees.
