//! [`LayerDisk`]: a layer below the top, with what lies below it, as a disk that nobody writes.

use std::rc::{Rc, Weak};

use strata_exec::{Executor, Queue, sync::Budget};
use strata_storage::error::IoError;

use super::{
    Node,
    guest_disk::{LONG, SHORT, WORK, whole_size},
    named_request::NamedRequest,
    survey::survey,
};
use crate::disk::{Completion, DiskInfo, Done, ExtentsDone, Op, Request, Submit};

/// What a layer shows. The caller keeps the layer and those below it open as long as there are
/// requests.
pub struct LayerDisk {
    layer: Rc<Node>,
    info: Rc<DiskInfo>,
    /// What its requests may work on at a time.
    work: Budget,
    exec: Rc<Executor>,
    this: Weak<Self>,
}

impl LayerDisk {
    /// What reads `layer`, for an export.
    pub fn new(exec: Rc<Executor>, layer: Rc<Node>) -> Rc<Self> {
        let info = Rc::new(DiskInfo {
            id: layer.name().to_owned(),
            size: whole_size(&layer),
            block_size: 512,
            physical_block_size: 512,
            read_only: true,
            discard: false,
            discard_granularity: 512,
            serial: String::new(),
        });
        Rc::new_cyclic(|this| Self {
            layer,
            info,
            work: Budget::new(WORK),
            exec,
            this: this.clone(),
        })
    }

    async fn carry_out(&self, request: &Request) -> Completion {
        match request.op {
            Op::Read => {}
            // What it shows was durable before a layer was put on it.
            Op::Flush => return Ok(()),
            Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => {
                return Err(IoError::ReadOnly);
            }
        }
        let amount = self.work.take(request.len.clamp(SHORT, LONG)).await;
        let result = self.layer.read(request.offset, request.data.clone()).await;
        self.work.give_back(amount);
        if let Err(error) = &result {
            tracing::warn!(layer = self.layer.name(), %error, "a client's request failed");
        }
        result
    }
}

impl Submit for LayerDisk {
    fn submit(&self, request: Request, done: Done) {
        let Some(this) = self.this.upgrade() else {
            return done(Err(IoError::Cancelled));
        };
        let request = NamedRequest::new(self.info(), request);
        self.exec
            .spawn_named(Queue::Guest, request.clone(), async move {
                done(this.carry_out(&request.request).await);
            });
    }

    fn info(&self) -> Rc<DiskInfo> {
        self.info.clone()
    }

    fn extents(&self, offset: u64, len: u64, max: usize, done: ExtentsDone) {
        let layer = self.layer.clone();
        self.exec
            .spawn_named(Queue::Guest, "block status of a layer", async move {
                done(survey(&layer, offset, len, max).await);
            });
    }
}
