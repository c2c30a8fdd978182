//! [`NamedRequest`]: a request that says what it is.

use std::{fmt, rc::Rc, time::Instant};

use crate::disk::{DiskInfo, Op, Request};

/// A request, and the disk that it is for: the name of the task that carries it out.
pub(super) struct NamedRequest {
    disk: Rc<DiskInfo>,
    /// The request.
    pub request: Request,
    /// When it came.
    pub since: Instant,
}

impl NamedRequest {
    /// A request for this disk.
    pub fn new(disk: Rc<DiskInfo>, request: Request) -> Rc<Self> {
        Rc::new(Self {
            disk,
            request,
            since: Instant::now(),
        })
    }
}

impl fmt::Display for NamedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { offset, len, .. } = self.request;
        let op = match self.request.op {
            Op::Flush => return write!(f, "{}: flush", self.disk.id),
            Op::Read => "read",
            Op::Write { fua: false } => "write",
            Op::Write { fua: true } => "write and flush",
            Op::Discard => "discard",
            Op::WriteZeroes { .. } => "write zeroes",
        };
        write!(f, "{}: {op} {len} bytes at {offset}", self.disk.id)
    }
}
