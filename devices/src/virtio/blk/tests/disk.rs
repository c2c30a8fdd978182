//! A disk in memory that can hold requests back and fail them.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
};

use strata_block::disk::{Completion, DiskInfo, Done, Op, Request, Submit};
use strata_storage::error::IoError;

pub struct FakeDisk {
    pub bytes: RefCell<Vec<u8>>,
    pub info: RefCell<DiskInfo>,
    /// Requests wait for [`FakeDisk::release`].
    pub hold: Cell<bool>,
    /// What requests end with from now on; `None` carries them out.
    pub fail: RefCell<Option<IoError>>,
    /// What was submitted: operation, byte offset, bytes.
    pub log: RefCell<Vec<(Op, u64, u64)>>,
    /// Called when a request arrives.
    pub on_submit: RefCell<Box<dyn FnMut()>>,
    held: RefCell<Vec<(Request, Done)>>,
}

impl FakeDisk {
    pub fn new(info: DiskInfo) -> Self {
        Self {
            bytes: RefCell::new(vec![0; info.size as usize]),
            info: RefCell::new(info),
            hold: Cell::new(false),
            fail: RefCell::new(None),
            log: RefCell::default(),
            on_submit: RefCell::new(Box::new(|| {})),
            held: RefCell::default(),
        }
    }

    /// The operations since the last call.
    pub fn take_log(&self) -> Vec<(Op, u64, u64)> {
        self.log.take()
    }

    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// Carries out what is held, oldest first, at most `count` requests.
    pub fn release(&self, count: usize) {
        for _ in 0..count.min(self.held()) {
            let (request, done) = self.held.borrow_mut().remove(0);
            done(self.carry_out(&request));
        }
    }

    pub fn unsupported() -> IoError {
        IoError::Unsupported {
            file: PathBuf::from("fake"),
            what: "this".into(),
        }
    }

    fn carry_out(&self, request: &Request) -> Completion {
        if let Some(error) = self.fail.borrow().clone() {
            return Err(error);
        }
        let mut bytes = self.bytes.borrow_mut();
        let start = request.offset as usize;
        let range = &mut bytes[start..start + request.len as usize];
        match request.op {
            Op::Read => request.data.copy_from(0, range),
            Op::Write { .. } => request.data.copy_to(0, range),
            Op::Discard | Op::WriteZeroes { .. } => range.fill(0),
            Op::Flush => {}
        }
        Ok(())
    }
}

impl Submit for FakeDisk {
    fn submit(&self, request: Request, done: Done) {
        (self.on_submit.borrow_mut())();
        let entry = (request.op, request.offset, request.len);
        self.log.borrow_mut().push(entry);
        if self.hold.get() {
            self.held.borrow_mut().push((request, done));
        } else {
            done(self.carry_out(&request));
        }
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(self.info.borrow().clone())
    }
}
