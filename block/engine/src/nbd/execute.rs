//! Carrying out a request on the export's disk.

use strata_exec::{mem::SgList, sync::promise};
use strata_format::extent::DiskExtent;
use strata_graph::disk::{Op, Request};
use strata_storage::{
    error::{IoError, IoResult},
    nbd::wire::proto::{Errno, MAX_PAYLOAD},
};

use super::{
    Export,
    context::Context,
    reply::{Content, Pieces, Question, Style},
    request::{Command, Refusal},
};

/// Reads from this length on look for holes first.
const SPARSE_READ: u64 = 64 << 10;

/// Parts of a read that are sent one by one at most.
const MAX_PARTS: usize = 32;

/// Extents in an answer to BLOCK_STATUS at most.
const MAX_EXTENTS: usize = 4096;

/// Bytes that CACHE reads at a time.
const CACHE_STEP: u64 = 1 << 20;

impl Command {
    /// Bytes of memory that the request takes until its reply has been sent, with so many contexts
    /// selected.
    pub fn cost(&self, contexts: usize) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len,
            Self::Cache { len, .. } => CACHE_STEP.min(*len),
            // An extent takes 24 bytes, and in the reply at most 16 for each context.
            Self::Status { .. } => (MAX_EXTENTS * (24 + 16 * contexts)) as u64,
            Self::Flush | Self::Trim { .. } | Self::Zero { .. } => 0,
        }
    }

    /// Carries the request out, and makes the reply.
    ///
    /// # Errors
    /// The error to send to the client.
    pub async fn carry_out(
        self,
        export: &Export,
        contexts: &[Context],
        question: &Question,
        payload: Vec<u8>,
    ) -> Result<Pieces, Refusal> {
        let result = match self {
            Self::Read { offset, len, whole } => {
                let sparse = question.style != Style::Simple && !whole && len >= SPARSE_READ;
                read(export, offset, len, sparse)
                    .await
                    .map(|parts| question.content(parts))
            }
            Self::Write { offset, len, fua } => {
                let data = SgList::from_vec(payload);
                run(export, Op::Write { fua }, offset, len, data)
                    .await
                    .map(|()| question.done())
            }
            Self::Flush => flush(export).await.map(|()| question.done()),
            Self::Trim { offset, len, fua } => change(export, Op::Discard, offset, len, fua)
                .await
                .map(|()| question.done()),
            Self::Cache { offset, len } => {
                cache(export, offset, len).await.map(|()| question.done())
            }
            Self::Zero {
                offset,
                len,
                unmap,
                fast,
                fua,
            } => {
                if fast && !is_zero(export, offset, len).await {
                    let why = "zeroing may be no faster than writing";
                    let errno = Errno::NotSup;
                    return Err(Refusal { errno, why });
                }
                change(export, Op::WriteZeroes { unmap }, offset, len, fua)
                    .await
                    .map(|()| question.done())
            }
            Self::Status { offset, len, one } => status(export, contexts, offset, len, one)
                .await
                .map(|answers| question.status(&answers)),
        };
        result.map_err(|error| refusal(&error))
    }
}

async fn run(export: &Export, op: Op, offset: u64, len: u64, data: SgList) -> IoResult<()> {
    let request = Request {
        op,
        offset,
        len,
        data,
    };
    export.disk.run(request).await
}

async fn flush(export: &Export) -> IoResult<()> {
    run(export, Op::Flush, 0, 0, SgList::empty()).await
}

/// A change without data, which has no force-unit-access form of its own.
async fn change(export: &Export, op: Op, offset: u64, len: u64, fua: bool) -> IoResult<()> {
    run(export, op, offset, len, SgList::empty()).await?;
    if fua { flush(export).await } else { Ok(()) }
}

/// Reads a range; with `sparse`, zeros come as holes where the disk knows of them.
async fn read(export: &Export, offset: u64, len: u64, sparse: bool) -> IoResult<Vec<Content>> {
    let mut parts = Vec::new();
    let mut done = 0;
    if sparse {
        for extent in extents(export, offset, len, MAX_PARTS).await? {
            parts.push(read_part(export, offset + done, &extent).await?);
            done += extent.len;
        }
    }
    if done < len {
        let (zero, depth, len) = (false, 1, len - done);
        let rest = DiskExtent { len, zero, depth };
        parts.push(read_part(export, offset + done, &rest).await?);
    }
    Ok(parts)
}

/// Reads one extent, which is no longer than a read may be.
async fn read_part(export: &Export, offset: u64, extent: &DiskExtent) -> IoResult<Content> {
    let len = u32::try_from(extent.len).map_err(|_| IoError::OutOfRange)?;
    if extent.zero {
        return Ok(Content::Hole(len));
    }
    let data = SgList::from_vec(vec![0; len as usize]);
    run(export, Op::Read, offset, extent.len, data.clone()).await?;
    Ok(Content::Data(data.into_vec()))
}

/// Brings a range into the host's page cache: as much of it as a read could be long.
async fn cache(export: &Export, offset: u64, len: u64) -> IoResult<()> {
    let len = len.min(u64::from(MAX_PAYLOAD));
    let mut done = 0;
    while done < len {
        let n = CACHE_STEP.min(len - done);
        let scratch = SgList::zeroed(usize::try_from(n).unwrap_or(0));
        run(export, Op::Read, offset + done, n, scratch).await?;
        done += n;
    }
    Ok(())
}

/// Whether all of a range is known to read as zeros already, so that zeroing it is quick. (A wrong
/// no only costs the client a write.)
async fn is_zero(export: &Export, offset: u64, len: u64) -> bool {
    if len == 0 {
        return true;
    }
    let extents = extents(export, offset, len, MAX_PARTS).await;
    extents.is_ok_and(|extents| {
        extents.iter().all(|extent| extent.zero)
            && extents.iter().map(|extent| extent.len).sum::<u64>() == len
    })
}

async fn status(
    export: &Export,
    contexts: &[Context],
    offset: u64,
    len: u64,
    one: bool,
) -> IoResult<Vec<(Context, Vec<(u64, u32)>)>> {
    let max = if one { 1 } else { MAX_EXTENTS };
    let mut found = Vec::new();
    if contexts
        .iter()
        .any(|context| !matches!(context, Context::Bitmap(_)))
    {
        found = extents(export, offset, len, max).await?;
    }
    let answer = |context: &Context| match *context {
        Context::Bitmap(index) => {
            let bitmap = export.bitmaps[index].bitmap();
            let runs = bitmap.runs(offset, len, max).into_iter();
            runs.map(|(len, dirty)| (len, u32::from(dirty))).collect()
        }
        _ => context.describe(&found),
    };
    Ok(contexts
        .iter()
        .map(|context| (*context, answer(context)))
        .collect())
}

async fn extents(export: &Export, offset: u64, len: u64, max: usize) -> IoResult<Vec<DiskExtent>> {
    let (done, ended) = promise();
    export.disk.extents(offset, len, max, done);
    ended.await
}

/// What is sent to the client of an error: no names of files, which are none of its business.
fn refusal(error: &IoError) -> Refusal {
    let (errno, why) = match error {
        IoError::OutOfRange => (Errno::Inval, "outside the export"),
        IoError::ReadOnly => (Errno::Perm, "the disk is read-only"),
        IoError::NoSpace { .. } => (Errno::NoSpace, "no space left on the server"),
        IoError::Cancelled => (Errno::Shutdown, "the server is shutting down"),
        IoError::Unsupported { .. } => (Errno::Io, "the image does not support this"),
        IoError::Lost { .. } => (Errno::Io, "a flush has failed: writes may be lost"),
        IoError::Host { .. } | IoError::Corrupt { .. } | IoError::Stopped { .. } => {
            (Errno::Io, "an I/O error on the server")
        }
    };
    Refusal { errno, why }
}
