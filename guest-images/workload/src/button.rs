//! The ACPI power button, as the kernel's input layer delivers it.

use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `struct input_event` of `linux/input.h` on a 64-bit kernel.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InputEvent {
    seconds: u64,
    microseconds: u64,
    kind: u16,
    code: u16,
    value: i32,
}

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Sets `pressed` when the power button is pushed. Returns how many input devices it watches.
pub fn watch(pressed: &Arc<AtomicBool>) -> usize {
    let Ok(dir) = fs::read_dir("/dev/input") else {
        return 0;
    };
    let devices = dir
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("event"));
    let opened = devices.filter_map(|e| File::open(e.path()).ok());
    opened
        .map(|device| spawn_watcher(device, Arc::clone(pressed)))
        .count()
}

fn spawn_watcher(mut device: File, pressed: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut event = InputEvent::new_zeroed();
        while device.read_exact(event.as_mut_bytes()).is_ok() {
            if event.kind == EV_KEY && event.code == KEY_POWER && event.value == 1 {
                pressed.store(true, Ordering::Relaxed);
            }
        }
    });
}
