//! Doubles for the wires that legacy devices pull.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::Signal;
use crate::host::IrqLine;

/// An interrupt line that remembers its level and counts its rising edges.
#[derive(Default)]
pub struct FakeLine {
    high: AtomicBool,
    edges: AtomicUsize,
}

impl FakeLine {
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }

    pub fn edges(&self) -> usize {
        self.edges.load(Ordering::SeqCst)
    }
}

impl IrqLine for FakeLine {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::SeqCst) && high {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A signal, and how often it was given.
pub fn counted_signal() -> (Signal, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let signal: Signal = Arc::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    (signal, count)
}
