//! Changes that are made in two layers: the disk's top and the one that mirrors it.
//!
//! The guest's request is done when the top has the change. What the other layer does not take is
//! dirty, and the job that has made the mirror sees to it.

use std::rc::Rc;

use strata_exec::{
    mem::{SgList, to_usize},
    yield_now,
};
use strata_storage::error::IoResult;

use super::{GuestDisk, WRITING_STEP, ZEROING_STEP, pieces, write};
use crate::{
    Mirror, Node,
    disk::{Op, Request},
};

impl GuestDisk {
    /// What the guest changes on the disk reaches another layer, too, or no longer. What is under
    /// way is noted when it ends.
    pub fn set_mirror(&self, mirror: Option<Rc<Mirror>>) {
        self.mirror.replace(mirror);
    }

    /// Whether changes are made in both layers.
    pub(super) fn writes_through(&self) -> bool {
        let mirror = self.mirror.borrow();
        mirror.as_ref().is_some_and(|mirror| mirror.is_through())
    }

    /// Notes a change of the top alone that has been made or has failed. There may be a mirror now
    /// that was not there when it began.
    pub(super) fn note_change(&self, request: &Request) {
        if let Some(mirror) = &*self.mirror.borrow() {
            mirror.mark(request.offset, request.len);
        }
    }

    /// Makes a change in the top and in the mirror's base.
    pub(super) async fn change_both(&self, root: &Rc<Node>, request: &Request) -> IoResult<()> {
        let mirror = self.mirror.borrow().clone();
        let Some(mirror) = mirror else {
            return self.change_layer(root, request).await;
        };
        let step = match request.op {
            Op::Write { .. } => WRITING_STEP,
            _ => ZEROING_STEP,
        };
        for (offset, len) in pieces(request.offset, request.len, step) {
            if offset > request.offset {
                yield_now().await;
            }
            let data = match request.op {
                // The guest may change its memory meanwhile, and both layers get the same bytes.
                Op::Write { .. } => {
                    let data = &request.data;
                    let from = to_usize(offset - request.offset);
                    let copy = SgList::zeroed(to_usize(len));
                    copy.copy_all_from(&data.slice(from, to_usize(len)));
                    copy
                }
                _ => SgList::empty(),
            };
            let piece = Request {
                op: request.op,
                offset,
                len,
                data,
            };
            let _entered = mirror.enter(offset, len).await?;
            let result = self.change_layer(root, &piece).await;
            if result.is_err() {
                mirror.mark(offset, len);
            }
            result?;
            if !self.follow(&mirror, &piece).await {
                mirror.mark(offset, len);
            }
        }
        Ok(())
    }

    async fn change_layer(&self, layer: &Rc<Node>, piece: &Request) -> IoResult<()> {
        match piece.op {
            Op::Write { .. } if !self.detects_zeroes() => {
                write(layer, piece.offset, &piece.data).await
            }
            _ => self.dispatch_zeroes(layer, piece).await,
        }
    }

    /// Makes a change in the mirror's base that has been made in the top; whether that worked.
    async fn follow(&self, mirror: &Mirror, piece: &Request) -> bool {
        let &Request {
            op, offset, len, ..
        } = piece;
        if op != Op::Discard {
            return self.change_layer(mirror.base(), piece).await.is_ok();
        }
        // What it has left is a matter of the top's format.
        let sectors = offset - offset % 512..(offset + len).next_multiple_of(512);
        let buffer = SgList::zeroed(to_usize(WRITING_STEP.min(sectors.end - sectors.start)));
        mirror.copy_entered(sectors, &buffer).await.is_ok()
    }
}
