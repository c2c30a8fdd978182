//! The signal that interrupts KVM_RUN. Its handler does nothing: that the call returns is all.

use std::sync::Once;

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Its number.
pub fn number() -> i32 {
    SIGRTMIN()
}

/// Makes the signal harmless; must have happened before it is sent.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        register_signal_handler(number(), handle).expect("a real-time signal can be handled");
    });
}

extern "C" fn handle(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
