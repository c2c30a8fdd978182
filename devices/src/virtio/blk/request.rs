//! From a descriptor chain to requests for the disk (virtio 1.2, 5.2.6).

use strata_block::disk::{Op, Request};
use strata_exec::mem::{SgList, to_usize};
use virtio_bindings::virtio_blk::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{MAX_RANGE_SECTORS, MAX_RANGES, SECTOR};
use crate::virtio::chain::{Chain, Pieces};

/// Bytes of `struct virtio_blk_req` before the data: type, reserved, sector.
const HEADER_LEN: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`.
const RANGE_LEN: u64 = 16;

/// How a request ends: the status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(clippy::cast_possible_truncation)] // 0 to 2
pub enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// Failed, or makes no sense.
    IoError = VIRTIO_BLK_S_IOERR as u8,
    /// Not a request that this device knows.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// What there is to do for a chain.
#[derive(Debug)]
pub enum Work {
    /// Carry these out; all have to succeed.
    Submit(Vec<Request>),
    /// Fill in the disk's serial number.
    Identify(Pieces),
}

/// A chain with its status byte cut off.
#[derive(Debug)]
pub struct Incoming {
    /// Where the status byte goes.
    pub status_at: GuestAddress,
    /// Bytes in the writable part before it.
    pub in_len: u32,
    readable: Pieces,
    writable: Pieces,
}

impl Incoming {
    /// Finds the status byte, the last one that is writable. Without one there is no way to answer.
    pub fn new(chain: Chain, memory: &GuestMemoryMmap) -> Option<Self> {
        let Chain {
            readable,
            mut writable,
            ..
        } = chain;
        let status_at = writable.take_last_byte()?;
        memory.read_obj::<u8>(status_at).ok()?;
        Some(Self {
            status_at,
            in_len: u32::try_from(writable.len()).ok()?,
            readable,
            writable,
        })
    }

    /// Reads the header and whatever else says what to do. A segment of data has `max_segment`
    /// bytes at most.
    ///
    /// # Errors
    /// The status to answer with at once.
    pub fn work(
        self,
        fua: bool,
        max_segment: u32,
        memory: &GuestMemoryMmap,
        list: impl Fn(&Pieces) -> Option<SgList>,
    ) -> Result<Work, Status> {
        let Self {
            mut readable,
            writable,
            ..
        } = self;
        let mut header = [0; HEADER_LEN];
        readable
            .take_front(memory, &mut header)
            .ok_or(Status::IoError)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let (data, unused, op) = match u32::from_le_bytes([k0, k1, k2, k3]) {
            VIRTIO_BLK_T_IN => (writable, readable, Op::Read),
            VIRTIO_BLK_T_OUT => (readable, writable, Op::Write { fua }),
            VIRTIO_BLK_T_FLUSH => return Ok(Work::Submit(vec![whole_disk_flush()])),
            VIRTIO_BLK_T_GET_ID => return Ok(Work::Identify(writable)),
            VIRTIO_BLK_T_DISCARD => {
                return ranges(readable, memory, |unmap| (!unmap).then_some(Op::Discard));
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                return ranges(readable, memory, |unmap| Some(Op::WriteZeroes { unmap }));
            }
            _ => return Err(Status::Unsupported),
        };
        let too_long = data.as_slice().iter().any(|piece| piece.1 > max_segment);
        if data.is_empty() || !unused.is_empty() || too_long {
            return Err(Status::IoError);
        }
        let list = list(&data).ok_or(Status::IoError)?;
        Ok(Work::Submit(vec![Request {
            op,
            offset: sector.checked_mul(SECTOR).ok_or(Status::IoError)?,
            len: list.len() as u64,
            data: list,
        }]))
    }
}

/// A flush, as the disk wants it.
pub fn whole_disk_flush() -> Request {
    Request {
        op: Op::Flush,
        offset: 0,
        len: 0,
        data: SgList::empty(),
    }
}

/// The segments of a discard or write-zeroes request. `op` says what one with the unmap flag set
/// or clear means, if anything.
fn ranges(
    mut segments: Pieces,
    memory: &GuestMemoryMmap,
    op: impl Fn(bool) -> Option<Op>,
) -> Result<Work, Status> {
    let len = segments.len();
    if len == 0 || !len.is_multiple_of(RANGE_LEN) || len / RANGE_LEN > MAX_RANGES.into() {
        return Err(Status::IoError);
    }
    let mut requests = Vec::with_capacity((len / RANGE_LEN) as usize);
    while !segments.is_empty() {
        let mut bytes = [0; to_usize(RANGE_LEN)];
        segments
            .take_front(memory, &mut bytes)
            .ok_or(Status::IoError)?;
        let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
        let sector = u64::from_le_bytes(sector);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // A flag that is not known, or not for this request, is unsupported (5.2.6.2).
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let op = op(unmap)
            .filter(|_| flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP == 0)
            .ok_or(Status::Unsupported)?;
        if sectors > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        requests.push(Request {
            op,
            offset: sector.checked_mul(SECTOR).ok_or(Status::IoError)?,
            len: u64::from(sectors) * SECTOR,
            data: SgList::empty(),
        });
    }
    Ok(Work::Submit(requests))
}
