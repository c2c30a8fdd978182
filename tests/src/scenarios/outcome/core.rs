//! What has to be in a core of a guest's memory.

use crate::error::{Context, Outcome, ensure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Where the kernel's command line was put (`vmm/src/layout.rs`).
const CMDLINE: u64 = 0x2_0000;
/// The lowest address of the kernel's half.
const KERNEL_HALF: u64 = 1 << 63;

const PT_LOAD: u64 = 1;

/// A program header, as far as it matters here.
struct Load {
    offset: u64,
    linear: u64,
    physical: u64,
    len: u64,
}

struct Core(File);

impl Core {
    fn read(&self, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset).context("core")?;
        Ok(bytes)
    }

    fn number(&self, offset: u64, len: usize) -> Outcome<u64> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&self.read(offset, len)?);
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The guest's command line ends with `words`; with `registers` vCPU 0 was in its kernel, whose
/// code is found at its own addresses.
pub fn check(path: &Path, words: &str, registers: bool) -> Outcome<()> {
    let core = Core(File::open(path).context("core")?);
    let (table, count) = (core.number(32, 8)?, core.number(56, 2)?);
    let mut loads = Vec::new();
    let mut notes = 0;
    for header in (0..count).map(|index| table + index * 56) {
        if core.number(header, 4)? != PT_LOAD {
            notes = core.number(header + 8, 8)?;
            continue;
        }
        loads.push(Load {
            offset: core.number(header + 8, 8)?,
            linear: core.number(header + 16, 8)?,
            physical: core.number(header + 24, 8)?,
            len: core.number(header + 32, 8)?,
        });
    }
    let meta = fs::metadata(path).context("core")?;
    let low = loads.first().context("a region of memory")?;
    let is_sparse = meta.len() >= low.len && meta.blocks() * 512 < meta.len();
    ensure(
        is_sparse && low.physical == 0 && low.len == 256 << 20,
        || format!("{} bytes, {} blocks", meta.len(), meta.blocks()),
    )?;
    let found = String::from_utf8_lossy(&core.read(low.offset + CMDLINE, 512)?).into_owned();
    let found = found.split('\0').next().unwrap_or_default();
    let is_right = found.starts_with("console=ttyS0") && found.ends_with(words);
    ensure(is_right, || format!("command line: {found:?}"))?;
    if registers {
        // The first note: its header, "CORE", and the instruction pointer as the 17th register.
        let pointer = core.number(notes + 12 + 8 + 112 + 16 * 8, 8)?;
        let code = loads
            .iter()
            .find(|load| (load.linear..load.linear.saturating_add(load.len)).contains(&pointer));
        let code = code.filter(|load| load.linear >= KERNEL_HALF);
        let code = code.context(format!("the code at {pointer:#x}"))?;
        let bytes = core.read(code.offset + pointer - code.linear, 16)?;
        ensure(bytes.iter().any(|byte| *byte != 0), || "no code".to_owned())?;
    }
    Ok(())
}
