//! Reading: from the layer that holds the bytes, and what lies below a layer.

use std::rc::Rc;

use super::{Driver, Node};
use crate::{
    below::Below,
    error::{IoError, IoResult},
    exec::{LocalBoxFuture, yield_now},
    extent::ExtentKind,
    mem::SgList,
};

/// Bytes that one look at the layers is for, at most.
const MAX_PIECE: usize = 1 << 20;

/// What a look at a layer's tables costs, in bytes that could be filled meanwhile.
const LOOK: usize = 4096;

/// What a read may do before others get their turn: fill so many bytes, or look as often as that
/// takes.
struct Turn(usize);

impl Default for Turn {
    fn default() -> Self {
        Self(MAX_PIECE)
    }
}

impl Turn {
    async fn spend(&mut self, cost: usize) {
        if self.0 < cost {
            yield_now().await;
            *self = Self::default();
        }
        self.0 -= cost.min(self.0);
    }
}

/// Where a range's bytes come from once the chain has been walked.
enum Source {
    Layer { node: Rc<Node>, kind: ExtentKind },
    Zero,
}

impl Node {
    /// Reads from one extent of this layer.
    async fn read_extent(&self, kind: ExtentKind, offset: u64, data: SgList) -> IoResult<()> {
        match (&self.driver, kind) {
            (_, ExtentKind::Data { host_offset }) => {
                self.data_storage().read(host_offset, data).await
            }
            (Driver::Qcow2(image), ExtentKind::Compressed) => {
                image.read_compressed(offset, data).await
            }
            _ => {
                data.fill(0, data.len(), 0);
                Ok(())
            }
        }
    }
}

impl Below for Node {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(self.read_backing(offset, data))
    }

    fn is_empty(&self) -> bool {
        self.backing.borrow().is_none()
    }

    fn visible_len(&self) -> u64 {
        let backing = self.backing.borrow();
        backing.as_ref().map_or(0, |below| below.size())
    }
}

/// Reads from a chain whose top is `top`; zeros where there is none.
pub(super) async fn read_chain(top: Option<Rc<Node>>, offset: u64, data: SgList) -> IoResult<()> {
    let (mut done, mut turn) = (0, Turn::default());
    while done < data.len() {
        let at = offset + done as u64;
        let rest = (data.len() - done).min(MAX_PIECE) as u64;
        let (len, source) = resolve(top.clone(), at, rest, &mut turn).await?;
        let len = usize::try_from(len).map_err(|_| IoError::OutOfRange)?;
        let piece = data.slice(done, len);
        match source {
            Source::Zero => {
                turn.spend(len).await;
                piece.fill(0, len, 0);
            }
            Source::Layer { node, kind } => node.read_extent(kind, at, piece).await?,
        }
        done += len;
    }
    Ok(())
}

/// Walks down to the layer that holds `offset`, and says for how many bytes it does.
async fn resolve(
    top: Option<Rc<Node>>,
    offset: u64,
    mut len: u64,
    turn: &mut Turn,
) -> IoResult<(u64, Source)> {
    let mut next = top;
    while let Some(node) = next {
        turn.spend(LOOK).await;
        let extent = node.lookup(offset, len).await?;
        assert!(
            (1..=len).contains(&extent.len),
            "an extent lies within what was asked for"
        );
        len = extent.len;
        match extent.kind {
            ExtentKind::Unallocated => next = node.backing(),
            ExtentKind::Zero => return Ok((len, Source::Zero)),
            kind => return Ok((len, Source::Layer { node, kind })),
        }
    }
    Ok((len, Source::Zero))
}
