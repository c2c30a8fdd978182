//! Reading what can be read of images that are damaged.

use strata_exec::mem::SgList;

use super::{Copy, CopyError, Event};

/// What cannot be read is distinguished from what can by sectors.
const SECTOR: usize = 512;

/// A part that could not be read.
struct Lost {
    offset: u64,
    len: u64,
    error: CopyError,
}

impl Copy {
    /// Fills `data` with what the sources show at `offset`; with zeros where they cannot be read,
    /// if that is wanted.
    pub(super) async fn read_or_salvage(
        &self,
        offset: u64,
        data: &SgList,
    ) -> Result<(), CopyError> {
        let read = self.plan.read(offset, data.clone()).await;
        if read.is_err() && self.options.salvage {
            self.salvage(offset, data).await;
            return Ok(());
        }
        read
    }

    async fn salvage(&self, offset: u64, data: &SgList) {
        let mut lost: Option<Lost> = None;
        let mut done = 0;
        while done < data.len() {
            let len = SECTOR.min(data.len() - done);
            let at = offset + done as u64;
            let sector = data.slice(done, len);
            match self.plan.read(at, sector.clone()).await {
                Ok(()) => self.tell_of(lost.take()),
                Err(error) => {
                    sector.fill(0, len, 0);
                    let start = lost.get_or_insert(Lost {
                        offset: at,
                        len: 0,
                        error,
                    });
                    start.len += len as u64;
                }
            }
            done += len;
        }
        self.tell_of(lost);
    }

    fn tell_of(&self, lost: Option<Lost>) {
        if let Some(Lost { offset, len, error }) = lost {
            let error = &error;
            (self.report)(Event::Lost { offset, len, error });
        }
    }
}
