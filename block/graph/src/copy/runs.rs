//! Zeros within what has been read.

use strata_exec::mem::{SgList, to_usize};

/// A part of a buffer. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub start: usize,
    pub len: usize,
    /// It is all zeros.
    pub zero: bool,
}

/// `data`, which lies at `offset` of the disk, in runs of zeros and of data. Fewer than `sparse`
/// zeros in a row between data count as data (those at the start or the end may have more beside
/// them); with 0 all is data.
pub fn of(data: &SgList, offset: u64, sparse: u64) -> Vec<Run> {
    let whole = Run {
        start: 0,
        len: data.len(),
        zero: false,
    };
    if sparse == 0 {
        return vec![whole];
    }
    let mut runs = Vec::new();
    for run in uniform(data, offset, block(sparse)) {
        let at_end = run.start == 0 || run.start + run.len == data.len();
        let run = Run {
            zero: run.zero && (at_end || run.len as u64 >= sparse),
            ..run
        };
        add(&mut runs, run);
    }
    runs
}

/// Zeros are looked for in blocks of so many bytes: the largest power of two in `sparse`.
fn block(sparse: u64) -> u64 {
    1 << sparse.ilog2()
}

/// Runs of blocks, as they are aligned on the disk, that are all zeros or none of which is.
fn uniform(data: &SgList, offset: u64, block: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let to_boundary = block - (offset + start as u64) % block;
        let len = (data.len() - start).min(to_usize(to_boundary));
        let zero = data.is_zero_at(start, len);
        add(&mut runs, Run { start, len, zero });
        start += len;
    }
    runs
}

/// Adds a run that follows the last one.
fn add(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.zero == run.zero => last.len += run.len,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests;
