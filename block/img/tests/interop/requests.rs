//! What is done to a disk, by either side.

use std::{ops::Range, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::Node;

use crate::{matrix::Case, support::Random};

/// What is done.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Write(u8),
    /// A whole cluster, compressed.
    Compressed(u8),
    Zero {
        unmap: bool,
    },
    Discard,
}

/// And where, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
}

impl Request {
    /// One of any kind that the case has, on a disk of `size` bytes: of whole sectors, and about a
    /// cluster long.
    pub fn random(case: &Case, size: u64, random: &mut Random) -> Self {
        let byte = 1 + random.below(255) as u8;
        let offset = random.below(size / 512) * 512;
        let most = (case.cluster * 2).max(64 << 10).min(size - offset);
        let len = (random.below(most / 512) + 1) * 512;
        let kind = match random.below(7) {
            0 => Kind::Zero {
                unmap: byte.is_multiple_of(2),
            },
            1 => Kind::Discard,
            2 if case.compressed.is_some() && size >= case.cluster => {
                return Self {
                    kind: Kind::Compressed(byte),
                    offset: random.below(size / case.cluster) * case.cluster,
                    len: case.cluster,
                };
            }
            _ => Kind::Write(byte),
        };
        Self { kind, offset, len }
    }

    /// So many of them.
    pub fn several(count: usize, case: &Case, size: u64, random: &mut Random) -> Vec<Self> {
        let one = |_| Self::random(case, size, random);
        (0..count).map(one).collect()
    }

    pub fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }

    /// Commands of `qemu-io` for it. QEMU writes compressed clusters only where nothing is.
    pub fn commands(&self) -> Vec<String> {
        let Self { kind, offset, len } = self;
        match kind {
            Kind::Write(byte) => vec![format!("write -P {byte} {offset} {len}")],
            Kind::Compressed(byte) => vec![
                format!("discard {offset} {len}"),
                format!("write -c -P {byte} {offset} {len}"),
            ],
            Kind::Zero { unmap: true } => vec![format!("write -z -u {offset} {len}")],
            Kind::Zero { unmap: false } => vec![format!("write -z {offset} {len}")],
            Kind::Discard => vec![format!("discard {offset} {len}")],
        }
    }

    pub async fn carry_out(&self, node: &Rc<Node>) {
        let bytes = |byte| SgList::from_vec(vec![byte; self.len as usize]);
        match self.kind {
            Kind::Write(byte) => node.write(self.offset, bytes(byte)).await,
            Kind::Compressed(byte) => {
                let packed = node.image().pack(&bytes(byte)).await;
                let packed = packed.expect("one byte again and again gets shorter");
                node.write_packed(self.offset, packed).await
            }
            Kind::Zero { unmap } => node.write_zeroes(self.offset, self.len, unmap).await,
            Kind::Discard => node.discard(self.offset, self.len).await,
        }
        .unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}
