//! The few accesses to KVM that `kvm-ioctls` leaves to its caller to prove safe.
#![allow(unsafe_code)] // Slots of memory, its pages, two fields that the kernel shares.

use std::{
    slice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_MEM_READONLY, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MprotectFlags, mprotect};
use strata_devices::pci::bridges::{SEGMENTS, Segment};
use strata_exec::mem::to_usize;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

/// Bytes of a page, of the guest's and the host's.
const PAGE: u64 = 4096;

/// A VM together with the memory that its slots point into.
///
/// Fields are dropped in order, so the VM's file descriptor goes before the mapping does. vCPU file
/// descriptors keep the VM alive in the kernel, so each [`Vcpu`] holds a share of this value.
pub struct Vm {
    /// The VM.
    pub fd: VmFd,
    /// What the guest can write.
    memory: GuestMemoryMmap,
    /// What the guest can read and execute, but not write.
    _rom: Option<GuestMemoryMmap>,
    /// Parts of `memory` that the guest can be kept from writing to.
    segments: Vec<kvm_userspace_memory_region>,
}

impl Vm {
    /// Makes every region of `memory` visible to the guest of `fd`, and those of `rom`, which lie
    /// elsewhere and are nobody's to write: a guest that does leaves as for memory that is not
    /// there. So it does for the first MiB's [`SEGMENTS`] where there is a `rom`, until
    /// [`Vm::protect`] says otherwise.
    ///
    /// # Errors
    /// The kernel's, of KVM_SET_USER_MEMORY_REGION.
    pub fn new(
        fd: VmFd,
        memory: GuestMemoryMmap,
        rom: Option<GuestMemoryMmap>,
    ) -> Result<Self, kvm_ioctls::Error> {
        let mut slots = Vec::new();
        for region in memory.iter() {
            slots.extend(cut(region, rom.is_some()));
        }
        for region in rom.iter().flat_map(|rom| rom.iter()) {
            slots.extend(cut(region, false).map(|slot| read_only(slot, true)));
        }
        for (number, slot) in (0..).zip(&mut slots) {
            slot.slot = number;
            // SAFETY: the range is part of a mapping of `memory` or `rom`, which the returned value
            // owns shares of; ranges do not overlap, and nobody holds a Rust reference into them.
            unsafe { fd.set_user_memory_region(*slot) }?;
        }
        slots.retain(|slot| rom.is_some() && is_segment(slot.guest_phys_addr));
        Ok(Self {
            fd,
            memory,
            _rom: rom,
            segments: slots,
        })
    }

    /// Lets the guest write to one of the [`SEGMENTS`], or no longer. The guest must not use it
    /// meanwhile: it is gone for a moment. Where there is no firmware nothing happens.
    ///
    /// # Errors
    /// The kernel's, of KVM_SET_USER_MEMORY_REGION.
    pub fn protect(&self, segment: Segment, writable: bool) -> Result<(), kvm_ioctls::Error> {
        let slot = self
            .segments
            .iter()
            .find(|slot| slot.guest_phys_addr == segment.start);
        let Some(&slot) = slot else {
            return Ok(());
        };
        let gone = kvm_userspace_memory_region {
            memory_size: 0,
            ..slot
        };
        // The kernel does not change a slot's flags.
        for slot in [gone, read_only(slot, !writable)] {
            // SAFETY: as in `new`; `self` owns a share of the mapping.
            unsafe { self.fd.set_user_memory_region(slot) }?;
        }
        Ok(())
    }

    /// Takes a page of the guest's memory out of the tables by which its processors find it; the
    /// next access brings it back. `address` is a guest physical one in it. Nothing happens where
    /// the guest has no memory.
    pub fn flush_page(&self, address: u64) {
        let page = GuestAddress(address & !(PAGE - 1));
        let Ok(page) = self.memory.get_slice(page, to_usize(PAGE)) else {
            return;
        };
        let host = page.ptr_guard_mut().as_ptr().cast();
        let usual = MprotectFlags::READ | MprotectFlags::WRITE;
        // Every change of a page's protection has the kernel drop it there. This one takes nothing
        // away from those who access it meanwhile.
        for flags in [usual | MprotectFlags::EXEC, usual] {
            // SAFETY: the page is part of the mapping that `self.memory` owns, it stays readable
            // and writable as it was made, and no code of this program is in it.
            if let Err(error) = unsafe { mprotect(host, to_usize(PAGE), flags) } {
                tracing::debug!(%error, "a page was not flushed");
            }
        }
    }
}

/// Slots for a region of memory: one, or those that it has to be cut into so that each of the
/// [`SEGMENTS`] has one of its own, which cannot be written to at first.
fn cut(
    region: &GuestRegionMmap,
    at_segments: bool,
) -> impl Iterator<Item = kvm_userspace_memory_region> {
    let (start, end) = (region.start_addr().0, region.start_addr().0 + region.len());
    let host = region
        .get_host_address(MemoryRegionAddress(0))
        .expect("a region has a first byte") as u64;
    let borders = SEGMENTS.into_iter().filter(|_| at_segments);
    let borders = borders.flat_map(|segment| [segment.start, segment.start + segment.len]);
    let mut borders: Vec<u64> = borders
        .filter(|&at| start < at && at < end)
        .chain([start, end])
        .collect();
    borders.sort_unstable();
    borders.dedup();
    let slots: Vec<_> = borders
        .windows(2)
        .map(|range| {
            let slot = kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: range[0],
                memory_size: range[1] - range[0],
                userspace_addr: host + (range[0] - start),
            };
            read_only(slot, at_segments && is_segment(range[0]))
        })
        .collect();
    slots.into_iter()
}

fn is_segment(start: u64) -> bool {
    SEGMENTS.iter().any(|segment| segment.start == start)
}

fn read_only(slot: kvm_userspace_memory_region, read_only: bool) -> kvm_userspace_memory_region {
    let flags = if read_only { KVM_MEM_READONLY } else { 0 };
    kvm_userspace_memory_region { flags, ..slot }
}

/// A vCPU that other threads can make leave KVM_RUN.
pub struct Vcpu {
    /// The vCPU.
    pub fd: VcpuFd,
    kick: Arc<Kick>,
    /// Keeps the guest's memory mapped; dropped after the vCPU.
    _vm: Arc<Vm>,
}

impl Vcpu {
    /// Wraps `fd`, a vCPU of `vm`.
    pub fn new(mut fd: VcpuFd, vm: Arc<Vm>) -> Self {
        let flag = &raw mut fd.get_kvm_run().immediate_exit;
        let kick = Arc::new(Kick(Mutex::new(Some(Flag(flag)))));
        Self { fd, kick, _vm: vm }
    }

    /// The handle for other threads.
    pub fn kick(&self) -> Arc<Kick> {
        Arc::clone(&self.kick)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        *self.kick.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Makes one vCPU leave KVM_RUN: `kvm_run.immediate_exit`.
///
/// The flag makes the next KVM_RUN return at once, a signal makes the one under way return; both
/// together leave no gap.
pub struct Kick(Mutex<Option<Flag>>);

impl Kick {
    /// Sets or clears the flag; nothing happens once the vCPU is gone.
    pub fn set(&self, exit: bool) {
        let flag = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flag) = &*flag {
            // SAFETY: `Vcpu::drop` takes the pointer away, under this lock, before the page is
            // unmapped; the kernel and this program treat the byte as a flag that may change at
            // any time.
            let flag = unsafe { AtomicU8::from_ptr(flag.0) };
            flag.store(u8::from(exit), Ordering::Release);
        }
    }
}

/// Address of a flag in the page that a vCPU shares with the kernel.
struct Flag(*mut u8);

// SAFETY: the byte is only accessed atomically, which any thread may do.
unsafe impl Send for Flag {}

/// Why KVM_RUN returned.
#[derive(Debug)]
pub enum Exit<'a> {
    /// Port input: `data` is to be filled, in items of `size` bytes (a string instruction has
    /// several).
    PortIn {
        /// Port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// Where the items go.
        data: &'a mut [u8],
    },
    /// Port output, as for input.
    PortOut {
        /// Port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// The items.
        data: &'a [u8],
    },
    /// A read outside the guest's memory.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// To be filled; 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// A write outside the guest's memory.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// 1 to 8 bytes.
        data: &'a [u8],
    },
    /// A triple fault.
    Shutdown,
    /// HLT, where no interrupt controller in the kernel waits for the next interrupt.
    Halt,
    /// Nothing to do but to enter the guest again.
    Again,
    /// The guest cannot go on; one line for people.
    Broken(String),
}

/// What an exit's data belong to.
enum Access {
    PortIn(u16),
    PortOut(u16),
    MmioRead(u64),
    MmioWrite(u64),
}

/// KVM_RUN.
///
/// # Errors
/// The kernel's; `EINTR` after a kick.
pub fn run(vcpu: &mut VcpuFd) -> Result<Exit<'_>, kvm_ioctls::Error> {
    let (access, data) = match vcpu.run()? {
        VcpuExit::IoIn(port, data) => (Access::PortIn(port), &raw mut *data),
        VcpuExit::IoOut(port, data) => (Access::PortOut(port), (&raw const *data).cast_mut()),
        VcpuExit::MmioRead(address, data) => (Access::MmioRead(address), &raw mut *data),
        VcpuExit::MmioWrite(address, data) => {
            (Access::MmioWrite(address), (&raw const *data).cast_mut())
        }
        VcpuExit::Shutdown => return Ok(Exit::Shutdown),
        VcpuExit::Hlt => return Ok(Exit::Halt),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => return Ok(Exit::Again),
        VcpuExit::InternalError => {
            let what = internal_error(vcpu);
            return Ok(Exit::Broken(format!("KVM {what}")));
        }
        VcpuExit::FailEntry(reason, _) => {
            let text = format!("the processor refused to enter the guest (reason {reason:#x})");
            return Ok(Exit::Broken(text));
        }
        other => return Ok(Exit::Broken(format!("unexpected KVM exit {other:?}"))),
    };
    let size = access_size(vcpu, &access);
    let (start, len) = (data.cast::<u8>(), data.len());
    // SAFETY: the kernel said that `len` bytes of the page it shares with us are the data of this
    // exit; they stay so until the next KVM_RUN, which needs `vcpu`, and `vcpu` is borrowed for as
    // long as the slice lives. The slice that the pointer came from is not used again.
    let data = unsafe { slice::from_raw_parts_mut(start, len) };
    Ok(match access {
        Access::PortIn(port) => Exit::PortIn { port, size, data },
        Access::PortOut(port) => Exit::PortOut { port, size, data },
        Access::MmioRead(address) => Exit::MmioRead { address, data },
        Access::MmioWrite(address) => Exit::MmioWrite { address, data },
    })
}

/// Bytes in one item of the access that `vcpu` has just left for; `kvm-ioctls` only gives their
/// sum.
fn access_size(vcpu: &mut VcpuFd, access: &Access) -> usize {
    let run = vcpu.get_kvm_run();
    match access {
        Access::PortIn(_) | Access::PortOut(_) => {
            // SAFETY: the exit was one for port I/O, so `io` is the union's field in use.
            usize::from(unsafe { run.__bindgen_anon_1.io }.size).max(1)
        }
        Access::MmioRead(_) | Access::MmioWrite(_) => 8,
    }
}

/// The internal error that `vcpu` has just left for.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit was an internal error, so `internal` is the union's field in use.
    match unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal }.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "could not emulate an instruction".into(),
        KVM_INTERNAL_ERROR_DELIVERY_EV => "could not deliver an exception".into(),
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "does not know why the guest stopped".into(),
        number => format!("had its internal error {number}"),
    }
}
