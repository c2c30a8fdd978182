//! Scatter-gather lists straight onto guest memory.
#![allow(unsafe_code)] // The one module of the devices that gives access to raw guest memory.

use std::sync::Arc;

use strata_exec::mem::SgList;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// A list on the guest memory at `pieces` (address, bytes), or `None` if any byte of them is not
/// the guest's memory. A piece may span regions that adjoin.
pub fn guest_list(memory: &Arc<GuestMemoryMmap>, pieces: &[(GuestAddress, u32)]) -> Option<SgList> {
    let mut raw = Vec::with_capacity(pieces.len());
    for &(address, len) in pieces {
        for slice in memory.get_slices(address, usize::try_from(len).ok()?) {
            let slice = slice.ok()?;
            raw.push((slice.ptr_guard_mut().as_ptr(), slice.len()));
        }
    }
    let keep: Arc<GuestMemoryMmap> = Arc::clone(memory);
    // SAFETY: `get_slices` gave these pieces, so they lie within mapped regions, which are mapped
    // readable and writable and stay so while `keep` lives. All of the program reaches guest memory
    // by pointer (vm-memory's volatile accesses and `SgList`'s copies), never by reference, and
    // from any thread.
    Some(unsafe { SgList::from_raw(raw, keep) })
}
