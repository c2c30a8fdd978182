//! `block_resize`: another size for a disk, while its guest runs.

use std::rc::Rc;

use strata_graph::{GuestDisk, Hold, Purpose};
use strata_storage::error::Error;

use super::{Engine, refused};
use crate::api::{BlockResize, CmdError, Reply};

impl Engine {
    /// Drains the disk and changes the size of its top layer.
    pub(super) async fn resize(&self, cmd: BlockResize) -> Result<Reply, CmdError> {
        let disk = self.find_top(&cmd.disk())?;
        let hold = Hold::take(&disk, [disk.root()], Purpose::Resize)?;
        if disk.options().read_only {
            return Err(refused("Image is read-only"));
        }
        let block = disk.options().block_size();
        if block > 512 && !cmd.size.is_multiple_of(block.into()) {
            return Err(refused(format!(
                "The new size must be a multiple of {block}, the disk's logical block size"
            )));
        }
        let alone = self.at_rest.lock().await;
        let result = change_size(&disk, cmd.size).await;
        drop(alone);
        drop(hold);
        self.tell_resized(&disk);
        result.map(|()| Reply::Done).map_err(|error| match error {
            // The command names the disk already.
            Error::Image { why, .. } => refused(why),
            error => refused(error.to_string()),
        })
    }
}

async fn change_size(disk: &Rc<GuestDisk>, size: u64) -> Result<(), Error> {
    let root = disk.root();
    // Most of what has to be flushed is flushed while the guest goes on.
    root.flush().await?;
    let _drained = disk.gate().drain().await;
    let result = root.resize(size).await;
    // Also after an error: it may have come when the disk had its new size already.
    disk.size_changed();
    result
}
