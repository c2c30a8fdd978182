//! Small helpers of several targets.

use std::{future::Future, rc::Rc};

use strata_exec::Executor;
use strata_storage::SimFile;

/// Bytes of an image that a target looks at. What a check has to walk grows with the square of it,
/// as tables may be shared.
pub const MAX_IMAGE: usize = 256 << 10;

/// Blocks of 4 KiB that an image may grow by.
const ROOM: u64 = 4096;

/// Runs a future to its end, always with the same interleaving.
pub fn block_on<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let exec = Executor::seeded(0).expect("an executor can be had");
    exec.block_on(future)
}

/// The files of an image: its own, and one for its data, which few images use.
pub struct Files {
    /// Header and tables.
    pub image: Rc<SimFile>,
    /// Data, where the header says so.
    pub data: Rc<SimFile>,
}

/// Files in memory that can grow a little: the image's holds `bytes`, the other nothing.
pub fn files(bytes: &[u8]) -> Files {
    let file = |name: &str, bytes: &[u8]| {
        let file = SimFile::new(name, bytes.to_vec(), 0);
        file.set_room(Some(ROOM));
        Rc::new(file)
    };
    Files {
        image: file("fuzzed", bytes),
        data: file("data", &[]),
    }
}

/// Bytes of a pattern that tells sectors and fills apart.
pub fn pattern(offset: u64, len: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    // Sector by sector: under a fuzzer, loops over bytes are slow.
    while at < len {
        let position = offset + at as u64;
        let end = len.min(at + 512 - (position % 512) as usize);
        bytes[at..end].fill(fill ^ (position >> 9) as u8);
        at = end;
    }
    bytes
}
